"""The one order of steps, from a file and samples to a smaller file that is proved.

    load -> analyse -> refuse what is out of reach -> calibrate -> score -> select -> cut -> prove
         -> repair -> check -> compare on held-out samples -> time both -> write model and plan

Each step takes what the steps before it found and changes nothing of it. Nothing is written before
everything has succeeded.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import latency
from .collect import collect
from .core.analysis import Analysis, CostModel, Mask
from .core.contracts import SURGERIES, Evidence, Progress, RepairTask, Samples
from .core.errors import BudgetError, DataError, OnnxPruneError
from .core.graph import Array, Graph
from .core.runtime import Session
from .core.stats import Statistics
from .dependency import analyse
from .evaluate import Evaluation, evaluate
from .example import example, instance_of
from .files import digest, load, save
from .latency import Latency
from .overview import nothing_prunable
from .plan import mask_of, plan_of
from .planfile import Change, DataId, ModelId, Step, read_plan, to_json, write_plan
from .report import PruneReport, widths_of
from .request import PruneRequest
from .select import check, select
from .verify import Proof, check_model, prove

Floats = NDArray[np.float64]
_HELD_OUT = 512  # samples: enough for an agreement to half a percent
_PROVED_ON = 4  # samples; drawn inputs at other sizes come on top


class Clock:
    """Times the steps and says which one is under way."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Time a step."""
        self.progress(step, 0, 0)
        start = time.perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - start


@dataclasses.dataclass(frozen=True)
class Subject:
    """The model at hand and the samples for it.

    Attributes:
        graph: as read from the file.
        analysis: of its normal form.
        cost: at the shapes of `feeds`.
        feeds: inputs of one run.
        calibration, held_out: disjoint samples; None without data.
    """

    path: Path
    graph: Graph
    analysis: Analysis
    cost: CostModel
    feeds: dict[str, Array]
    calibration: Samples | None
    held_out: Samples | None


@dataclasses.dataclass(frozen=True)
class Decision:
    """What goes, why, and what was learnt on the way."""

    mask: Mask
    criterion: Step
    asked: str
    scores: tuple[Floats, ...] = ()
    statistics: Statistics | None = None


def prune(request: PruneRequest) -> PruneReport:
    """Carry out one prune.

    Raises:
        OnnxPruneError: whatever the user can mend, in one line; then nothing was written.
    """
    clock = Clock(request.progress)
    subject = study(request, clock)
    decision = decide(request, subject, clock)
    if request.dry_run:
        return _finish(request, subject, decision, clock)
    pruned, proof = cut(request, subject, decision, clock)
    repaired = repair(request, subject, decision, pruned, clock)
    with clock("check"):
        check_model(repaired.to_model(), like=subject.graph)
        before = Session(subject.path, provider=request.provider)
        after = Session(repaired.to_model, provider=request.provider)
    with clock("compare"):
        found = _compare(request, subject, before, after)
    with clock("latency"):
        times = latency.compare(before, after, subject.feeds, progress=request.progress)
    return _finish(request, subject, decision, clock, repaired, proof, found, times)


def study(request: PruneRequest, clock: Clock) -> Subject:
    """Read the model and the samples, and find what can be removed."""
    path = Path(request.model)
    with clock("load"):
        graph = load(path)
        _refuse_output(request)
    with clock("analyse"):
        analysis = analyse(graph)
    if not analysis.groups:
        raise OnnxPruneError(nothing_prunable(analysis))
    with clock("samples"):
        calibration, held_out = split(request, graph)
    feeds = example(graph, calibration)
    cost = CostModel(analysis, instance_of(analysis.graph, feeds))
    return Subject(path, graph, analysis, cost, feeds, calibration, held_out)


def _refuse_output(request: PruneRequest) -> None:
    """Say at once what `save` would say at the end."""
    source, target = Path(request.model), request.target
    if not request.dry_run and not request.overwrite and target.exists() and target.samefile(source):
        raise OnnxPruneError(f"the output '{target}' is the input: choose another path, or give --overwrite")
    if not target.parent.is_dir():
        raise OnnxPruneError(f"cannot write '{target}': there is no folder '{target.parent}'; create it first")


def split(request: PruneRequest, graph: Graph) -> tuple[Samples | None, Samples | None]:
    """Open the samples and divide them: calibration first, then what is held out."""
    if request.data is None:
        if request.labels is not None:
            raise DataError(f"--labels '{request.labels}' needs --data")
        return None, None
    samples = open_samples(
        request.data, graph, limit=request.samples + _HELD_OUT, seed=request.seed, preprocess=request.preprocess
    )
    if request.labels is not None and request.labels not in samples.extra:
        keys = ", ".join(f"'{key}'" for key in samples.extra) or "inputs of the model only"
        raise DataError(f"--labels '{request.labels}': the data has no such key; it has {keys}")
    step = samples.batch or 1
    held_out = min(_HELD_OUT, samples.count // 4) // step * step
    count = min(max(request.samples // step, 1) * step, samples.count - held_out)
    rest = samples.part(count, count + held_out) if held_out else None
    return samples.part(0, count), rest


def decide(request: PruneRequest, subject: Subject, clock: Clock) -> Decision:
    """Choose what goes, or read it from a plan."""
    if request.plan is not None:
        plan = read_plan(request.plan)
        mask = mask_of(subject.analysis, plan, sha256=digest(subject.path))
        statistics = _statistics(request, subject, frozenset(), clock)
        return Decision(mask, plan.criterion, f"plan '{request.plan}'", (), statistics)
    budget, (name, criterion) = request.budget, request.scoring
    assert budget is not None  # noqa: S101 - the request has a budget or a plan
    check(subject.cost, budget, request.options)
    if criterion.needs and subject.calibration is None:
        raise OnnxPruneError(f"criterion '{name}' needs sample inputs: give --data, or choose l1, l2, fpgm or random")
    statistics = _statistics(request, subject, criterion.needs, clock)
    evidence = Evidence(subject.analysis, statistics, request.seed)
    with clock("score"):
        scores = []
        for number, group in enumerate(subject.analysis.groups):
            scores.append(criterion.score(group, evidence))
            request.progress("score", number + 1, len(subject.analysis.groups))
    with clock("select"):
        chosen = select(subject.cost, scores, budget, request.options, comparable=criterion.comparable)
    if not len(chosen.units):
        raise BudgetError(f"{budget.asked} removes nothing: no group can lose a whole step; lower --round-to, or ask for more")
    return Decision(
        subject.analysis.mask(chosen.units), Step(name, _settings(criterion)), budget.asked, tuple(scores), statistics
    )


def _settings(registered: object) -> dict[str, str | int | float | bool | None]:
    """Return the settings of a criterion or repair: the fields of its dataclass."""
    return dataclasses.asdict(registered) if dataclasses.is_dataclass(registered) else {}  # type: ignore[arg-type]


def _statistics(request: PruneRequest, subject: Subject, needs: frozenset[str], clock: Clock) -> Statistics | None:
    """Run the model over the calibration samples, once, for what criterion and repair read."""
    name, repair = request.repairing
    if (repair.needs or repair.needs_samples) and subject.calibration is None:
        raise OnnxPruneError(f"repair '{name}' needs sample inputs: give --data, or --repair none")
    needs = needs | repair.needs
    if subject.calibration is None or not needs:
        return None
    with clock("calibrate"):
        return collect(
            subject.analysis, subject.calibration, needs, rows=request.rows, provider=request.provider,
            seed=request.seed, progress=request.progress,
        )  # fmt: skip


def cut(request: PruneRequest, subject: Subject, decision: Decision, clock: Clock) -> tuple[Graph, Proof | None]:
    """Remove what was decided and prove that nothing else changed."""
    with clock("cut"):
        pruned = SURGERIES["channels"](decision.mask)
    if not request.verify:
        return pruned, None
    batches = []
    if (samples := subject.calibration) is not None:
        batch = samples.read(0, samples.batch or min(_PROVED_ON, samples.count))
        batches = [{name: batch[name] for name in subject.feeds}]
    with clock("prove"):
        return pruned, prove(subject.graph, decision.mask, pruned, batches)


def repair(request: PruneRequest, subject: Subject, decision: Decision, pruned: Graph, clock: Clock) -> Graph:
    """Refit what is left."""
    evidence = Evidence(subject.analysis, decision.statistics, request.seed)
    task = RepairTask(
        decision.mask, pruned, evidence, subject.calibration, request.ridge, request.rows, request.progress
    )
    with clock("repair"):
        return request.repairing[1].apply(task)


def _compare(request: PruneRequest, subject: Subject, before: Session, after: Session) -> Evaluation | None:
    """Compare pruned and original model on what neither criterion nor repair has seen."""
    if subject.held_out is None:
        return None
    return evaluate(after, subject.held_out, labels=request.labels, reference=before, progress=request.progress)


def _finish(
    request: PruneRequest,
    subject: Subject,
    decision: Decision,
    clock: Clock,
    repaired: Graph | None = None,
    proof: Proof | None = None,
    found: Evaluation | None = None,
    times: Latency | None = None,
) -> PruneReport:
    """Write the model and its plan together, or in a dry run the plan alone, and report."""
    figures = _figures(subject, decision.mask)
    source = subject.path
    plan = to_json(_plan(request, subject, decision, figures, repaired, proof))
    with clock("write"):
        if repaired is None:
            write_text(plan, request.plan_target)
            files: tuple[Path, ...] = ()
        else:
            files = save(
                repaired, request.target, overwrite=request.overwrite, original=source,
                beside={request.plan_target: plan.encode()},
            )  # fmt: skip
