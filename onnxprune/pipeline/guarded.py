"""The largest compression whose drop stays within a limit, judged on samples nothing else has seen.

Calibration and scores are made once and serve every trial; a trial selects, cuts, repairs and
compares with the original. Compressions lie on an even grid between all and the least reachable;
bisection over 2^T - 1 of them takes at most T trials. Each is judged at 1 - (1 - confidence) / T: if
the true drop grows with the compression, the trials that bisection would make if it never refused a
good one are known beforehand, at most T, and one that was refused wrongly leaves only good ones to
try; so the chance that what is chosen exceeds the limit is at most 1 - confidence (Bonferroni).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..core.contracts import SURGERIES, Memo, Samples, computed
from ..core.cost import CostModel
from ..core.errors import BudgetError, DataError
from ..core.graph import Array, Graph
from ..core.interface import Interface, interface_of
from ..core.runtime import Session
from ..files.store import digest
from ..measure.clock import Clock
from ..measure.drop import Drop, Limit, Search, Trial
from ..measure.evaluate import Evaluation, Turned, evaluate
from ..plan import versions
from ..selection.budget import Budget, Figure
from ..selection.select import least
from ..show.report import plain
from .decide import Decision, Ranked, chosen, ranked, settings_of
from .memory import Memory, content
from .repair import repair
from .request import PruneRequest
from .study import Subject

_FORMAT = 1  # raise it when what trials remember changes its meaning
_HALF_PRECISION = {10: 2.0**-10, 16: 2.0**-7}  # ONNX element types of 16 bits: their epsilon
_NAMES = {"macs": "MACs", "params": "parameters", "size": "bytes"}
_RECORDED = 256 << 20  # bytes of outputs of the original
_EVEN = 0.5  # the confidence at which a drop is taken as it was measured
_SINGLE_PRECISION = 2.0**-23


def guarded(request: PruneRequest, subject: Subject, clock: Clock) -> Decision:
    """Search the largest compression within `request.max_drop`.

    Raises:
        DataError: if there are too few samples to show the limit, or none.
        BudgetError: if no compression that was tried holds it.
    """
    samples = subject.held_out
    if samples is None:
        raise DataError(
            "--max-drop needs samples to judge by: give --data, with two samples or more"
        )
    limit = _limit(request, subject)
    if samples.count < (needed := limit.least_samples()):
        raise DataError(
            f"--max-drop {request.max_drop}: {samples.count} samples to judge by cannot show it with "
            f"{request.confidence:.0%} confidence, even if no answer changes: give {needed} more "
            f"than --samples, lower --confidence, or allow a larger drop"
        )
    search = _Search(request, subject, clock, limit, samples)
    search.request = dataclasses.replace(request, progress=search.say)
    return search.run()


def _limit(request: PruneRequest, subject: Subject) -> Limit:
    metric = request.metric or ("agreement" if request.labels is None else "accuracy")
    level = 1 - (1 - request.confidence) / (request.trials if request.confidence > _EVEN else 1)
    kinds = {weight.proto.data_type for weight in subject.graph.weights.values()}
    epsilon = max(_HALF_PRECISION.get(kind, _SINGLE_PRECISION) for kind in kinds)
    return Limit(request.allowed, metric, level, epsilon ** (2 / 3))


@dataclasses.dataclass
class _Search:
    """One search.

    Attributes:
        trials: made so far, by what they remove.
        best: the largest compression that holds: its key among the trials, and the repaired model
            (None where the trial was remembered).
        stage: what progress says first.
    """

    request: PruneRequest
    subject: Subject
    clock: Clock
    limit: Limit
    samples: Samples
    trials: dict[str, Trial] = dataclasses.field(default_factory=dict)
    best: tuple[str, Decision, Graph | None] | None = None
    stage: str = ""

    def run(self) -> Decision:
        """Bisect; return the decision of the best trial."""
        self._try_metric()
        known = ranked(self.request, self.subject, self.clock)
        low, high = 0, 2**self.request.trials
        while high - low > 1:
            middle = (low + high) // 2
            if self._holds(known, middle / 2**self.request.trials):
                low = middle
            else:
                high = middle
        if self.best is None:
            raise BudgetError(self._refusal())
        key, decision, repaired = self.best
        search = self._found([*self.trials].index(key))
        selection = {**decision.selection, "search": plain(search)}
        return dataclasses.replace(decision, selection=selection, search=search, repaired=repaired)

    def say(self, what: str, done: int, total: int) -> None:
        """Report progress with the number of the trial."""
        self.clock.progress(f"{self.stage}{what}", done, total)

    def _try_metric(self) -> None:
        """Refuse a metric that the model or the samples do not have before anything takes time."""
        first = self.samples.part(0, self.samples.batch or 1)
        self.limit.judge(self._evaluated(self._reference, first, None))

    def _holds(self, known: Ranked, depth: float) -> bool:
        """Try a compression: 0 is nothing, 1 the least reachable."""
        budget = self._budget(depth)
        self.stage = f"trial {len(self.trials) + 1} of {self.request.trials}: "
        decision = chosen(self.request, self.subject, known, budget, self.clock)
        key = hashlib.sha256(np.packbits(decision.mask.removed).tobytes()).hexdigest()[:16]
        if key not in self.trials:
            evaluation, repaired = self._tried(decision, key)
            drop = self.limit.judge(evaluation)
            self.trials[key] = self._trial(budget, decision, drop)
            if drop.holds:
                self.best = key, decision, repaired
        return self.trials[key].drop.holds

    def _budget(self, depth: float) -> Budget:
        by, cost = self.request.by, self.subject.cost
        full = figure(cost, by)
        last = float(getattr(least(cost, self.request.options), by))
        return Budget(by, full - depth * (full - last), relative=False, asked=self._asked)

    def _tried(self, decision: Decision, key: str) -> tuple[Evaluation, Graph | None]:
        """Cut, repair and compare, or remember how that went."""
        made: list[Graph] = []

        def make() -> dict[str, Array]:
            with self.clock("cut"):
                pruned = SURGERIES["channels"](decision.mask)
            made.append(repair(self.request, self.subject, decision, pruned, self.clock))
            with self.clock("compare"):
                after = Session(made[0], provider=self.request.provider)
                interface = interface_of(decision.mask)
                return _packed(self._evaluated(after, self.samples, interface))

        return _unpacked(self._memo(f"trial-{key}", make)), made[0] if made else None

    def _evaluated(
        self, session: Session, samples: Samples, interface: Interface | None
    ) -> Evaluation:
        return evaluate(
            session, samples, labels=self.request.labels, reference=self._reference,
            interface=interface, progress=self.request.progress,
        )  # fmt: skip

    @cached_property
    def _reference(self) -> Session:
        return _Recorded(self.subject.path, provider=self.request.provider)

    @cached_property
    def _memo(self) -> Memo:
        """What remembers trials: by everything that decides how one goes but for what it removes."""
        request, repair_name = self.request, self.request.repairing
        if request.work is None:
            return computed
        calibration, depth = self.subject.calibration, self.subject.depth
        return Memory(
            Path(request.work),
            {
                "trials": _FORMAT, "model": digest(self.subject.path), "labels": request.labels,
                "judged": content(self.samples), "versions": dict(versions()),
                "data": content(calibration) if calibration else "",
                "repair": repair_name[0], "settings": settings_of(repair_name[1]),
                "ridge": request.ridge, "rows": request.rows, "seed": request.seed,
                "blocks": [block.y for block in depth.blocks] if depth else [],
                "unlock": str(request.unlocked), "provider": request.provider,
            },
        )  # fmt: skip

    @property
    def _asked(self) -> str:
        return f"--max-drop {self.request.max_drop}"

    def _trial(self, budget: Budget, decision: Decision, drop: Drop) -> Trial:
        cost, whole = self.subject.cost, self.subject.whole
        left = cost.lengths(decision.mask.removed)
        share = budget.value / figure(whole, self.request.by)
        return Trial(share, cost.macs(left), cost.params(left), cost.size(left), drop)

    def _found(self, number: int) -> Search:
        request = self.request
        return Search(
            request.allowed, self.limit.metric, request.by, request.confidence, self.samples.count,
            tuple(self.trials.values()), 2**request.trials - 1, number,
        )  # fmt: skip

    def _refusal(self) -> str:
        """Say that nothing holds the limit, and what the mildest trial came to."""
        by, whole = self.request.by, figure(self.subject.whole, self.request.by)
        mildest = max(self.trials.values(), key=lambda trial: float(getattr(trial, by)))
        kept, drop = float(getattr(mildest, by)) / whole, mildest.drop
        change = "changes the outputs" if self.limit.share == 0 else f"may lose {drop.bound:.2%}"
        return (
            f"{self._asked}: nothing was written, since no cut that was tried holds it: the mildest, "
            f"which keeps {kept:.1%} of the {_NAMES[by]}, loses {drop.value:.2%} of {self.limit.metric} and "
            f"{change} (on {self.samples.count} samples): allow a larger drop, or more --trials"
        )


class _Recorded(Session):
    """The original, which runs once on the samples that judge every trial."""

    @cached_property
    def _held(self) -> dict[bytes, dict[str, Any]]:
        return {}

    def run(
        self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Run, or remember what came out for the same inputs."""
        state = hashlib.sha256(repr(outputs).encode())
        for name in sorted(feeds):
            array = np.ascontiguousarray(feeds[name])
            state.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
        key = state.digest()
        if key in self._held:
            return self._held[key]
        found = super().run(feeds, outputs)
        size = sum(np.asarray(value).nbytes for value in found.values())
        if size * (len(self._held) + 1) <= _RECORDED:
            self._held[key] = found
        return found


def figure(cost: CostModel, name: Figure) -> float:
    """Return what the uncut model weighs."""
    weigh = {"macs": cost.macs, "params": cost.params, "size": cost.size}[name]
    return weigh(cost.lengths())


def _packed(found: Evaluation) -> dict[str, Array]:
    """Return what a judgement needs, as arrays."""
    turned = {"right": found.right, "same": found.same}
    counts = {
        name: np.array([] if t is None else dataclasses.astuple(t), np.int64)
        for name, t in turned.items()
    }
    names = list(found.errors)
    return {
        "samples": np.array(found.samples),
        "names": np.array(names, np.str_),
        "errors": np.array([found.errors[n] for n in names], np.float64),
        "spreads": np.array([found.spreads[n] for n in names], np.float64),
        **counts,
    }


def _unpacked(held: dict[str, Array]) -> Evaluation:
    """Undo `_packed`."""
    names = held["names"].tolist()
    right, same = (Turned(*held[n].tolist()) if len(held[n]) else None for n in ("right", "same"))
    errors, spreads = (
        dict(zip(names, held[kind].tolist(), strict=True)) for kind in ("errors", "spreads")
    )
    return Evaluation(int(held["samples"]), errors=errors, spreads=spreads, right=right, same=same)
