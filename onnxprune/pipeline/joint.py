"""Width and depth under one budget: how many blocks go before channels meet it, judged by what is lost.

What a channel and what a block costs the model are in no common unit: scores of one reader's error do
not say what errors of a whole branch become behind it. So blocks are only ranked, by score per cost,
and the first n of them go, n = 0, 1, 2, ...; channels of the rest meet the budget by the criterion, all
costs exact. Of these plans the one stays whose model, repaired, differs least from the original's
outputs on samples that no repair has seen. That difference first falls with n, where a whole block is
cheaper than the last channels of all others, and then rises: few n need to be tried.

Calibration and scores are those of the whole model and serve every plan, as they do every budget.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property

import numpy as np

from ..core.blocks import Block
from ..core.configured import settings_of
from ..core.contracts import SURGERIES, Evidence
from ..core.cost import CostModel, Weighed
from ..core.errors import BudgetError, InternalError
from ..core.runtime import Session
from ..measure.clock import Clock
from ..measure.evaluate import evaluate
from ..measure.recorded import Recorded
from ..plan import DepthRound, PlannedDepth, Step
from ..selection.budget import Budget
from ..selection.select import check
from .decide import Decision, Ranked, blocks_alone, chosen, ranked, with_blocks
from .deepen import blocks_of, divided
from .depth import carried, carried_scores, remaining
from .repair import repair
from .request import PruneRequest
from .study import Subject, without

Blocks = tuple[Block, ...]

_PARTS = 4  # of the range of numbers of blocks, to begin with
_NEAR = 0.1  # budgets within this share of each other leave about as many blocks out
_NO_UNITS = np.empty(0, np.int64)


class Widths:
    """Channels alone, under any number of budgets."""

    def __init__(
        self, request: PruneRequest, subject: Subject, clock: Clock, known: Ranked | None = None
    ) -> None:
        """Calibrate and score once, unless that is `known`."""
        self.request, self.subject, self.clock = request, subject, clock
        self.known = known or ranked(request, subject, clock)

    def __call__(self, budget: Budget) -> Decision:
        """Choose what goes.

        Raises:
            BudgetError: if the budget is out of reach, or nothing goes.
        """
        if self.subject.depth is not None and not budget.relative:
            left = self.subject.cost.figure(budget.weighed)
            if left <= budget.value:
                alone = blocks_alone(self.request, self.subject)
                return dataclasses.replace(alone, remains=left)
        return chosen(self.request, self.subject, self.known, budget, self.clock)


@dataclasses.dataclass(frozen=True)
class _Tried:
    """One number of blocks: what goes with them, and the output error on the judging samples."""

    decision: Decision
    error: float


class Joint(Widths):
    """Blocks and channels, under any number of budgets."""

    def __init__(
        self, request: PruneRequest, subject: Subject, clock: Clock, known: Ranked | None = None
    ) -> None:
        """Calibrate, score channels and rank blocks once, unless that is `known`.

        Raises:
            OnnxPruneError: if the model has no blocks.
            DataError: if there are too few samples to judge by.
        """
        super().__init__(request, subject, clock, known)
        if self.known.blocks is None:
            raise InternalError("blocks that are chosen with channels are ranked before")
        self.blocks, self.seen = self.known.blocks
        self.fitted, self.judges = divided(request, subject.calibration, subject.judges)
        self.shallow: dict[frozenset[str], Subject] = {}
        self.last: tuple[float, int] | None = None  # a limit, and how many blocks went

    def __call__(self, budget: Budget) -> Decision:
        """Choose what goes.

        Raises:
            BudgetError: if the budget is out of reach with any number of blocks.
        """
        cost = self.subject.cost
        limit = budget.limit(cost.figure(budget.weighed))
        order = self._order(budget.weighed)
        low, high = self._range(order, budget, limit)
        tried: dict[int, _Tried] = {}

        def error(count: int) -> float:
            self.clock.progress("numbers of blocks tried", len(tried), high - low + 1)
            tried[count] = self._tried(order[:count], budget)
            return tried[count].error

        best = least_at(error, low, high)
        self.last = limit, best
        return self._written(tried, best)

    def _order(self, figure: Weighed) -> Blocks:
        """Return blocks by score per cost, the cheapest first."""
        cost = self.subject.cost
        whole = cost.figure(figure)
        saved = {b.y: whole - cost.without((b,)).figure(figure) for b in self.blocks}
        useful = [b for b in self.blocks if saved[b.y] > 0]
        return tuple(sorted(useful, key=lambda b: self.seen.scores[b.name] / saved[b.y]))

    def _range(self, order: Blocks, budget: Budget, limit: float) -> tuple[int, int]:
        """Return the least and the largest number of blocks worth a try.

        Raises:
            BudgetError: if no number of blocks brings the budget into reach.
        """
        cost, figure = self.subject.cost, budget.weighed
        left = [cost.without(order[:n]).figure(figure) for n in range(len(order) + 1)]
        high = next((n for n, value in enumerate(left) if value <= limit), len(order))
        low = 0
        while low < high:
            try:
                self._check(order[:low], budget)
                break
            except BudgetError:
                low += 1
        if left[low] > limit:
            self._check(order[:low], budget)
        if self.last is not None and abs(limit / self.last[0] - 1) <= _NEAR:
            before = min(max(self.last[1], low), high)
            low, high = max(low, before - 1), min(high, before + 1)
        return low, high

    def _check(self, gone: Blocks, budget: Budget) -> None:
        """Refuse a budget that channels cannot meet beside these blocks."""
        cost = self.subject.cost.without(gone)
        left = remaining(budget, self.subject.cost, cost)
        if left is not None:
            check(cost, left, self.request.options)

    def _tried(self, gone: Blocks, budget: Budget) -> _Tried:
        """Choose channels beside these blocks, cut, repair, and compare with the original."""
        decision = self._decided(gone, budget)
        subject = dataclasses.replace(decision.subject, calibration=self.fitted)
        pruned = subject.graph
        if decision.mask.removed.any() or not gone:
            with self.clock("cut"):
                pruned = SURGERIES["channels"](decision.mask)
        repaired = repair(self.request, subject, decision, pruned, self.clock)
        with self.clock("compare"):
            session = Session(repaired, provider=self.request.provider)
            found = evaluate(session, self.judges, reference=self._reference)
        return _Tried(decision, np.inf if found.error is None else found.error)

    @cached_property
    def _reference(self) -> Recorded:
        return Recorded(self.subject.path, provider=self.request.provider)

    def _decided(self, gone: Blocks, budget: Budget) -> Decision:
        """Choose channels beside these blocks; what goes is said of what is left without them."""
        cost = self.subject.cost.without(gone)
        left = remaining(budget, self.subject.cost, cost)
        whole = dataclasses.replace(self.subject, cost=cost)
        if left is None:
            decision = self._alone(whole, budget)
        else:
            decision = chosen(self.request, whole, self.known, left, self.clock)
        if not gone:
            return decision
        subject = self._shallow(gone)
        entire = self.subject.analysis
        return dataclasses.replace(
            decision,
            subject=subject,
            mask=carried(decision.mask, subject.analysis),
            scores=carried_scores(decision.scores, entire, subject.analysis),
            evidence=Evidence(
                subject.analysis, None, self.request.seed, self.known.evidence.labels
            ),
        )

    def _alone(self, whole: Subject, budget: Budget) -> Decision:
        """Let no channel go: the blocks meet the budget."""
        name, criterion = self.known.criterion
        options = dataclasses.asdict(self.request.options)
        return Decision(
            subject=whole,
            mask=whole.analysis.mask(_NO_UNITS),
            criterion=Step(name, settings_of(criterion)),
            selection={"budget": with_blocks(budget.asked, self.request)} | options,
            repair=self.known.repair,
            evidence=self.known.evidence,
            scores=tuple(ranking.scores for ranking in self.known.rankings),
            remains=whole.cost.figure(budget.weighed),
        )

    def _shallow(self, gone: Blocks) -> Subject:
        """Leave the blocks out, or remember what that left."""
        key = frozenset(block.y for block in gone)
        if key not in self.shallow:
            blocks = tuple(sorted(gone, key=lambda b: b.nodes[-1]))
            mask = self.subject.analysis.mask(_NO_UNITS, blocks)
            self.shallow[key] = without(self.request, self.subject, mask, None, self.clock)
        return self.shallow[key]

    def _written(self, tried: dict[int, _Tried], best: int) -> Decision:
        """Return the best, with a record of all."""
        rounds = []
        for count, one in tried.items():
            depth = one.decision.subject.depth
            names = () if depth is None else tuple(block.name for block in depth.blocks)
            found = dataclasses.replace(
                self.seen, blocks=names, drop=one.error, accepted=count == best
            )
            rounds.append(found)
        planned = PlannedDepth(self.request.deepening[0], "error", self.judges.count, _once(rounds))
        decision = tried[best].decision
        subject = dataclasses.replace(decision.subject, chosen=planned)
        return dataclasses.replace(decision, subject=subject)


def _once(rounds: list[DepthRound]) -> tuple[DepthRound, ...]:
    """Keep what was measured of all blocks with the first round only: the others saw no more."""
    bare = DepthRound(rounds[0].settings, {}, ())
    later = [
        dataclasses.replace(bare, blocks=r.blocks, drop=r.drop, accepted=r.accepted)
        for r in rounds[1:]
    ]
    return (rounds[0], *later)


def least_at(function: Callable[[int], float], low: int, high: int) -> int:
    """Return where a function of whole numbers that falls and then rises is least, ends included.

    A few points far apart, then those half as far from the best so far, down to its neighbours.
    """
    step = max((high - low) // _PARTS, 1)
    found = {n: function(n) for n in range(low, high + 1, step)}
    while step > 1:
        step //= 2
        best = min(found, key=found.__getitem__)
        for n in (best - step, best + step):
            if low <= n <= high and n not in found:
                found[n] = function(n)
    return min(found, key=found.__getitem__)


def choosing(
    request: PruneRequest, subject: Subject, clock: Clock, known: Ranked | None = None
) -> Widths:
    """Return what chooses under any number of budgets; `known` as in `decide`."""
    return (Joint if request.joint else Widths)(request, subject, clock, known)


def jointly(
    request: PruneRequest, subject: Subject, clock: Clock, known: Ranked | None = None
) -> Decision:
    """Choose blocks and channels together under the request's budget; `known` as in `decide`.

    Raises:
        BudgetError: if it is out of reach.
    """
    assert request.budget is not None
    return Joint(request, subject, clock, known)(request.budget)


def deepest(request: PruneRequest, subject: Subject) -> CostModel:
    """Return the cost of what channels are at last chosen from, with all blocks out that may be."""
    if not request.joint:
        return subject.cost
    return subject.cost.without(blocks_of(request, subject.analysis, subject.calibration))
