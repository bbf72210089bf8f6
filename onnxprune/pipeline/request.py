"""What a user asks of `prune`: every option once, with its default, checked before any work."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from ..core.configured import configured
from ..core.contracts import CRITERIA, REPAIRS, Criterion, Progress, Repair, silent
from ..core.depth import DEPTH, DepthScore
from ..core.errors import BudgetError, OnnxPruneError
from ..discover import discover
from ..measure.drop import Metric, read_share
from ..providers import provider_named
from ..selection.budget import Budget, Normalise, Options, Scope
from ..structure.unlock import Positions, Unlock, unlocks
from .deep_search import check_depth, read_blocks
from .samples import Data
from .schedule import check_rounds
from .searching import check_search, read_sweep

By = Literal["macs", "params", "size", "latency"]
_BUDGETS = ("macs", "params", "size", "ratio", "latency")
_ASKING = (*_BUDGETS, "max_drop", "sweep")  # one of them
_DECIDING = ("criterion", "unlock", "drop_block", "depth")  # which a plan does
_CHOICES = {
    "then": Literal["quantize"],
    "scope": Scope,
    "normalise": Normalise,
    "metric": Metric,
    "by": By,
}
_LEAST = dict.fromkeys(("samples", "rows", "trials", "judge_samples", "rounds"), 1)
_LEAST |= dict.fromkeys(("seed", "ridge", "threads"), 0)
_FULL_VECTOR = 16  # channels


@dataclasses.dataclass(frozen=True)
class PruneRequest:
    """One prune, as asked for.

    Attributes:
        model: the ONNX file.
        output: where the pruned file goes; None: beside the input, as `<name>.pruned.onnx`. The plan
            goes beside it: `x.onnx` has `x.plan.json`. Of a sweep, the folder for all of that; None:
            `<name>.sweep`.
        data: sample inputs: a `--data` text, a mapping of arrays, an iterable of mappings, samples.
        preprocess: image preprocessing, as the `--preprocess` text or a mapping.
        labels: key of the data's labels, for accuracy.
        samples: calibrate on at most so many; others are held out.
        criterion: what scores the units, as "name" or "name:setting=value,setting=value"; None:
            "reconstruction" with data, else "l2".
        repair: how what is left is refitted, written alike; None: "sequential" with data, else "none".
        macs, params, size, ratio, latency: the budget, one of them (see `Budget.parse`); none is needed when
            the criterion chooses by itself.
        max_drop: in place of a budget: the drop that is allowed, as "1%" or 0.01. The largest
            compression that holds it is searched; 0: only what changes nothing but rounding goes.
        metric: what the drop is of: "accuracy" (share of right answers, needs labels), "agreement" (share
            of the original's answers) or "error" (relative output error); None: accuracy with labels,
            else agreement.
        by: what the search makes least, or the sweep is over: "macs", "params" or "size"; a sweep
            also "latency".
        confidence: that the true drop is within the limit (of a sweep: that all are within theirs),
            judged on samples that nothing else has seen; 0.5 takes the drop on those as it is.
        trials: at most so many compressions are tried: the result is within 1 / 2^trials of the
            largest that would hold.
        sweep: in place of a budget: several, for `onnxprune.sweep`: the shares of `by` that may
            remain, as "0.8,0.6" or numbers, or how many, spread evenly down to the least reachable.
        bench: time all files of a sweep side by side, at its end.
        judge: samples that compare with the original, written as `data`; None: those of `data` beyond
            `samples`. Best are samples that the model was not trained on: on those it was, it
            answers with more margin, and loses less. With `depth` and a single budget, or none, half
            of them judge which blocks go; else a quarter of the calibration samples does.
        judge_samples: at most so many; None: 512, for a search 4096.
        drop_block: names or patterns of blocks (see `inspect`) that are left out whole, before
            channels are chosen; without a budget nothing else goes. Scores and repair look at what
            remains without them.
        depth: what chooses such blocks instead, written as `criterion` is: "mpruner", which goes on while
            accuracy (agreement without labels) holds, or a score that only ranks, such as "cosine".
            With a budget and no `blocks`, such a score and the criterion meet it together.
        blocks: how many of the blocks that compete go by a score that ranks, or which share of them.
        unlock: what may shrink of that which callers of the model see: "input:NAME", "output:NAME" or
            "vocabulary:NAME", with "@AXIS" at the end if it is not the usual one.
        keep_rows, keep_classes, keep_features: positions of the unlocked vocabulary, output or input
            that stay: text such as "0-9,17", a file that lists them, or integers; all others go.
        device: the machine whose time `latency` speaks of: a TOML file as for `bench`; None: this one.
        threads: intra-op threads there; 0: onnxruntime's choice.
        scope, normalise, keep, floor: how widths are chosen (see `Options`).
        round_to: kept channels are a multiple of this, or all; None: of 8, with `latency` of 16, which
            is what onnxruntime's CPU convolutions compute at once.
        ridge: damping of the least-squares repair, relative to the mean variance of its inputs; None:
            chosen per output on held-out halves by `sequential`, 0.001 by others.
        rows: output positions sampled per calibration sample and operator.
        seed: of everything that is drawn.
        plan: re-apply this plan file instead of choosing.
        rounds: in so many steps, each scored on what the last one left, refitted.
        retrain: train in each round, by the original: settings of `onnxprune.torch.Recipe`, such as
            "epochs=2,rate=0.01".
        train: samples to train on, written as `data`; None: those of the calibration.
        rewind: with `retrain`: each round starts again from the weights of the original.
        work: folder where long criteria remember what they have done, to go on after a kill.
        then: "quantize": hand the pruned file to onnxruntime's static quantiser, with the same samples;
            `<output>.int8.onnx` comes beside it, and is measured, too.
        dry_run: write the plan only.
        verify: prove before writing.
        overwrite: allow `output` to be `model`.
        provider: onnxruntime execution provider for calibration and latency, e.g. "cpu" or "cuda".
        progress: called as work goes on.
    """

    model: Path | str
    output: Path | str | None = None
    _: dataclasses.KW_ONLY
    data: Data | None = None
    preprocess: str | Mapping[str, Any] | None = None
    labels: str | None = None
    samples: int = 512
    criterion: str | None = None
    repair: str | None = None
    macs: float | str | None = None
    params: float | str | None = None
    size: float | str | None = None
    ratio: float | str | None = None
    latency: float | str | None = None
    device: Path | str | None = None
    threads: int = 0
    max_drop: float | str | None = None
    metric: Metric | None = None
    by: By = "macs"
    confidence: float = 0.95
    trials: int = 7
    sweep: str | float | tuple[float, ...] | None = None
    bench: bool = False
    judge: Data | None = None
    judge_samples: int | None = None
    drop_block: tuple[str, ...] | str = ()
    depth: str | None = None
    blocks: float | str | None = None
    scope: Scope | None = None
    normalise: Normalise | None = None
    round_to: int | None = None
    keep: tuple[str, ...] | str = ()
    floor: float = 0.1
    unlock: tuple[str, ...] | str = ()
    keep_rows: Positions | None = None
    keep_classes: Positions | None = None
    keep_features: Positions | None = None
    ridge: float | None = None
    rows: int = 32
    seed: int = 0
    plan: Path | str | None = None
    rounds: int = 1
    retrain: str | None = None
    train: Data | None = None
    rewind: bool = False
    work: Path | str | None = None
    then: Literal["quantize"] | None = None
    dry_run: bool = False
    verify: bool = True
    overwrite: bool = False
    provider: str = "cpu"
    progress: Progress = dataclasses.field(default=silent, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse what makes no sense, before any work.

        Raises:
            BudgetError: unless exactly one budget, or a plan, is given.
            OnnxPruneError: for an unknown name or a number out of its range.
        """
        discover()
        object.__setattr__(self, "provider", provider_named(self.provider))
        for name, kind in _CHOICES.items():
            value, known = getattr(self, name), get_args(kind)
            if value is not None and value not in known:
                raise OnnxPruneError(f"--{name} '{value}': expected one of {', '.join(known)}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                option = name.replace("_", "-")
                raise OnnxPruneError(f"--{option} {value}: expected at least {least}")
        given = [name for name in _ASKING if getattr(self, name) is not None]
        decided = [*given, *(n for n in _DECIDING if getattr(self, n))]
        if self.plan is not None and decided:
            first = decided[0].replace("_", "-")
            raise BudgetError(f"--plan decides what goes: leave out --{first}")
        _ = self.budget, self.options, self.scoring, self.repairing, self.unlocked
        check_search(self)
        check_rounds(self)
        check_depth(self)
        if not self.by_time and (self.device or self.threads):
            option = "target" if self.device else "threads"
            raise OnnxPruneError(f"--{option} is of use with --latency only: leave it out")
        if self.only_lists and self.criterion is not None:
            raise BudgetError(
                "--criterion has nothing to rank: the lists of what to keep say what goes; "
                "give a budget too, or leave it out"
            )
        if not self.needs_budget <= len(given) <= 1:
            found = " and ".join(f"--{name.replace('_', '-')}" for name in given) or "none"
            raise BudgetError(
                "expected one budget of --macs, --params, --size, --ratio, --latency, or --max-drop or "
                f"--sweep, found {found}"
            )

    @property
    def needs_budget(self) -> bool:
        """Whether nothing else says how much goes."""
        alone = self.only_lists or self.only_blocks
        return not (self.plan is not None or self.scoring[1].chooses or alone)

    @property
    def deepening(self) -> tuple[str, DepthScore]:
        """Name and object of the depth score, where one is asked for."""
        return configured(DEPTH, self.depth or "")

    @property
    def joint(self) -> bool:
        """Whether blocks and channels are chosen together, under one budget."""
        ranks = self.depth is not None and self.deepening[1].guard is None
        return ranks and self.blocks is None and self.bounded

    @property
    def block_count(self) -> float | None:
        """How many blocks go: a whole number, or a share below 1.

        Raises:
            BudgetError: if it is neither.
        """
        return None if self.blocks is None else read_blocks(self.blocks)

    @property
    def allowed(self) -> float:
        """The drop that a search may come to, as a share."""
        return read_share(self.max_drop or 0.0)

    @property
    def bounded(self) -> bool:
        """Whether something other than the criterion says how much goes."""
        return self.budget is not None or self.max_drop is not None or self.sweep is not None

    @property
    def shares(self) -> int | tuple[float, ...]:
        """The shares of a sweep, most first, or how many."""
        return () if self.sweep is None else read_sweep(self.sweep)

    @property
    def benched(self) -> bool:
        """Whether the files of a sweep are timed side by side."""
        return self.bench or (self.sweep is not None and self.by == "latency")

    @property
    def by_time(self) -> bool:
        """Whether time is the budget."""
        return self.latency is not None or self.by == "latency"

    @property
    def budget(self) -> Budget | None:
        """The budget; None when a plan is given."""
        for name in _BUDGETS:
            if (value := getattr(self, name)) is not None:
                return Budget.parse(name, value)
        return None

    @cached_property
    def unlocked(self) -> tuple[Unlock, ...]:
        """What may shrink of that which callers of the model see."""
        texts = (self.unlock,) if isinstance(self.unlock, str) else self.unlock
        return unlocks(
            texts, rows=self.keep_rows, classes=self.keep_classes, features=self.keep_features
        )

    @property
    def only_lists(self) -> bool:
        """Whether what goes follows from lists of what to keep alone."""
        is_listed = any(unlock.keep is not None for unlock in self.unlocked)
        return is_listed and not self.bounded and not self.scoring[1].chooses

    @property
    def dropped(self) -> tuple[str, ...]:
        """Names and patterns of the blocks to leave out."""
        return (self.drop_block,) if isinstance(self.drop_block, str) else tuple(self.drop_block)

    @property
    def only_blocks(self) -> bool:
        """Whether blocks are left out and nothing else."""
        more = self.bounded or self.scoring[1].chooses or self.only_lists
        return bool(self.dropped or self.depth) and not more

    @property
    def options(self) -> Options:
        """How widths are chosen."""
        keep = (self.keep,) if isinstance(self.keep, str) else tuple(self.keep)
        usual = _FULL_VECTOR if self.by_time else Options.round_to
        step = usual if self.round_to is None else self.round_to
        return Options(self.scope, step, self.floor, keep, self.normalise)

    @property
    def scoring(self) -> tuple[str, Criterion]:
        """Name and object of the criterion."""
        return configured(
            CRITERIA, self.criterion or ("l2" if self.data is None else "reconstruction")
        )

    @property
    def repairing(self) -> tuple[str, Repair]:
        """Name and object of the repair."""
        return self.named_repair(self.repair or ("none" if self.data is None else "sequential"))

    @staticmethod
    def named_repair(name: str) -> tuple[str, Repair]:
        """Name and object of a repair."""
        return configured(REPAIRS, name)

    @property
    def target(self) -> Path:
        """Where the pruned file goes; of a sweep, the folder."""
        source, kind = Path(self.model), "pruned.onnx" if self.sweep is None else "sweep"
        return (
            source.with_name(f"{source.stem}.{kind}") if self.output is None else Path(self.output)
        )

    @property
    def plan_target(self) -> Path:
        """Where the plan goes."""
        return self.target.with_name(f"{self.target.stem}.plan.json")
