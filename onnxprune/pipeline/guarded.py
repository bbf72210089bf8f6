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
from functools import cached_property
from pathlib import Path

import numpy as np

from ..core.contracts import SURGERIES, Memo, computed
from ..core.errors import BudgetError, DataError
from ..core.graph import Array, Graph
from ..core.interface import interface_of
from ..core.runtime import Session
from ..measure.clock import Clock
from ..measure.drop import Drop, Search, Trial
from ..measure.evaluate import Evaluation
from ..selection.budget import Budget
from ..selection.select import least
from ..show.report import plain
from .decide import Decision
from .joint import Widths, choosing, deepest
from .judging import Judge, limit_of, packed, unpacked
from .memory import Memory
from .repair import repair
from .request import PruneRequest
from .study import Subject

_FORMAT = 1  # raise it when what trials remember changes its meaning
_NAMES = {"macs": "MACs", "params": "parameters", "size": "bytes"}


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
    limit = limit_of(request, subject, request.allowed, request.trials)
    judge = Judge(request, subject, samples, limit)
    if samples.count < (needed := limit.least_samples()):
        raise DataError(
            f"--max-drop {request.max_drop}: {samples.count} samples to judge by cannot show it with "
            f"{request.confidence:.0%} confidence, even if no answer changes: give {needed} more "
            f"than --samples, lower --confidence, or allow a larger drop"
        )
    search = _Search(request, subject, clock, judge)
    judge.request = search.request = dataclasses.replace(request, progress=search.say)
    return search.run()


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
    judge: Judge
    trials: dict[str, Trial] = dataclasses.field(default_factory=dict)
    best: tuple[str, Decision, Graph | None] | None = None
    stage: str = ""

    def run(self) -> Decision:
        """Bisect; return the decision of the best trial."""
        self.judge.try_metric()
        choose = choosing(self.request, self.subject, self.clock)
        low, high = 0, 2**self.request.trials
        while high - low > 1:
            middle = (low + high) // 2
            if self._holds(choose, middle / 2**self.request.trials):
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

    def _holds(self, choose: Widths, depth: float) -> bool:
        """Try a compression: 0 is nothing, 1 the least reachable."""
        budget = self._budget(depth)
        self.stage = f"trial {len(self.trials) + 1} of {self.request.trials}: "
        decision = choose(budget)
        key = _key(decision)
        if key not in self.trials:
            evaluation, repaired = self._tried(decision, key)
            drop = self.judge.limit.judge(evaluation)
            self.trials[key] = self._trial(budget, decision, drop)
            if drop.holds:
                self.best = key, decision, repaired
        return self.trials[key].drop.holds

    def _budget(self, depth: float) -> Budget:
        by, full = self.request.by, self.subject.cost.figure(self.request.by)
        last = float(getattr(least(deepest(self.request, self.subject), self.request.options), by))
        return Budget(by, full - depth * (full - last), relative=False, asked=self._asked)

    def _tried(self, decision: Decision, key: str) -> tuple[Evaluation, Graph | None]:
        """Cut, repair and compare, or remember how that went."""
        made: list[Graph] = []

        def make() -> dict[str, Array]:
            with self.clock("cut"):
                pruned = SURGERIES["channels"](decision.mask)
            made.append(repair(self.request, decision.subject, decision, pruned, self.clock))
            with self.clock("compare"):
                after = Session(made[0], provider=self.request.provider)
                interface = interface_of(decision.mask)
                return packed(self.judge.compared(after, interface))

        return unpacked(self._memo(f"trial-{key}", make)), made[0] if made else None

    @cached_property
    def _memo(self) -> Memo:
        """What remembers trials: by everything that decides how one goes but for what it removes."""
        if self.request.work is None:
            return computed
        return Memory(Path(self.request.work), {"trials": _FORMAT, **self.judge.decided_by()})

    @property
    def _asked(self) -> str:
        return f"--max-drop {self.request.max_drop}"

    def _trial(self, budget: Budget, decision: Decision, drop: Drop) -> Trial:
        cost = decision.subject.cost
        left = cost.lengths(decision.mask.removed)
        share = budget.value / self.subject.whole.figure(self.request.by)
        return Trial(share, cost.macs(left), cost.params(left), cost.size(left), drop)

    def _found(self, number: int) -> Search:
        request, judge = self.request, self.judge
        return Search(
            request.allowed, judge.limit.metric, request.by, request.confidence, judge.samples.count,
            tuple(self.trials.values()), 2**request.trials - 1, number,
        )  # fmt: skip

    def _refusal(self) -> str:
        """Say that nothing holds the limit, and what the mildest trial came to."""
        by, whole = self.request.by, self.subject.whole.figure(self.request.by)
        mildest = max(self.trials.values(), key=lambda trial: float(getattr(trial, by)))
        kept, drop = float(getattr(mildest, by)) / whole, mildest.drop
        metric, count = self.judge.limit.metric, self.judge.samples.count
        change = (
            "changes the outputs" if self.request.allowed == 0 else f"may lose {drop.bound:.2%}"
        )
        return (
            f"{self._asked}: nothing was written, since no cut that was tried holds it: the mildest, "
            f"which keeps {kept:.1%} of the {_NAMES[by]}, loses {drop.value:.2%} of {metric} and "
            f"{change} (on {count} samples): allow a larger drop, or more --trials"
        )


def _key(decision: Decision) -> str:
    """Return a name for what a decision removes."""
    depth, removed = decision.subject.depth, np.packbits(decision.mask.removed)
    blocks = "" if depth is None else repr(sorted(block.y for block in depth.blocks))
    return hashlib.sha256(blocks.encode() + removed.tobytes()).hexdigest()[:16]
