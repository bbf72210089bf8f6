"""Scores + budget -> which units go: exactly costed, deterministic, never more than asked needs.

uniform: the least common share whose widths, each rounded to the nearest allowed one, meet the
budget. global: one ranking over all groups by (score lost) / (cost saved) of each group's next step,
the saving computed on the lengths at that moment. Within a group units go in ascending order of
score, ties by lowest number. At the end, steps that turn out not to be needed are given back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .budget import Budget, Figure, Normalise, Options, amount
from .core.analysis import CostModel
from .core.errors import BudgetError, InternalError
from .ledger import Frontier, Ledger
from .widths import allowed_widths

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_SLACK = 1 + 1e-12  # rounding of sums of products


@dataclasses.dataclass(frozen=True)
class Figures:
    """What a model weighs: MACs of one sample, parameters, bytes of weights, removable units."""

    macs: float
    params: float
    size: float
    units: int


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which units go.

    Attributes:
        units: int64, global unit numbers to remove, ascending.
        kept: units kept per group, in the order of the analysis' groups.
        before, after: figures of the original and of what remains.
        trail: float64, shape (S, 2): after each step, the figure that remains as a share of the
            original's, and the summed score of what was removed (normalised scores).
    """

    units: Ints
    kept: tuple[int, ...]
    before: Figures
    after: Figures
    trail: Floats


def least(cost: CostModel, options: Options) -> Figures:
    """Return the least figures that any budget can reach: every group at its floor."""
    ledger = _untouched(cost, "units", options)
    ledger.set(ledger.floors())
    return figures(cost, ledger.lengths)


def check(cost: CostModel, budget: Budget, options: Options) -> float:
    """Return the largest value of the budget's figure that meets it.

    Raises:
        BudgetError: if it cannot be reached; names the least reachable figure.
        OnnxPruneError: if a `keep` pattern matches nothing.
    """
    ledger = _untouched(cost, budget.figure, options)
    if not ledger.floors().any():
        raise BudgetError(f"{budget.asked}: no group of channels may lose any, by what the model and --keep allow")
    original = ledger.figure()
    limit = budget.limit(original)
    ledger.set(ledger.floors())
    if ledger.figure() > limit * _SLACK:
        raise _unreachable(budget, limit, ledger.figure(), original)
    return limit


def select(
    cost: CostModel,
    scores: Sequence[Floats],
    budget: Budget,
    options: Options | None = None,
    *,
    comparable: bool = False,
) -> Selection:
    """Choose the units to remove.

    Args:
        cost: the cost of the analysed model, at the shapes that the budget speaks of.
        scores: per group in the order of the analysis' groups, float64, shape (U,), higher = keep.
        budget: how much may remain.
        options: scope, rounding, floors, what stays.
        comparable: whether scores of different groups can be compared as they are.

    Raises:
        BudgetError: if the budget cannot be met; names the least reachable figure.
        OnnxPruneError: if a `keep` pattern matches nothing.
    """
    options = options or Options()
    limit = check(cost, budget, options)
    _check_scores(cost, scores)
    order = [np.argsort(s, kind="stable") for s in scores]
    values = normalised(scores, options.normalise or ("none" if comparable else "mean"))
    ledger = Ledger(cost, budget.figure, order, allowed_widths(cost.analysis, options))
    before = figures(cost, ledger.lengths)
    run = _Run(ledger, [np.append(0, np.cumsum(v[o])) for v, o in zip(values, order, strict=True)], limit)
    if options.scope == "global":
        run.ranked()
    elif budget.figure == "units" and budget.relative:
        run.common_share(1 - budget.value)
    else:
        run.least_common_share()
    if ledger.figure() > limit * _SLACK and not (options.scope == "uniform" and budget.figure == "units"):
        raise _unreachable(budget, limit, ledger.figure(), run.original)
    gone = [g.units[o[: len(o) - k]] for g, o, k in zip(cost.analysis.groups, order, run.kept(), strict=True)]
    return Selection(
        units=np.sort(np.concatenate(gone)) if gone else np.empty(0, np.int64),
        kept=run.kept(),
        before=before,
        after=figures(cost, ledger.lengths),
        trail=np.array(run.trail),
    )


def normalised(scores: Sequence[Floats], how: Normalise) -> list[Floats]:
    """Return scores that can be compared between groups, none below zero.

    "mean", "sum" and "max" divide by the mean, sum or largest magnitude in the group; "standard"
    subtracts the mean and divides by the standard deviation. If any result is negative, all are
    shifted by the least of them: differences stay, and losing the least important unit costs nothing.
    """
    def scaled(s: Floats) -> Floats:
        if how == "standard":
            return (s - s.mean()) / (s.std() or 1.0)
        size = {"none": 1.0, "mean": np.abs(s).mean(), "sum": np.abs(s).sum(), "max": np.abs(s).max()}[how]
        return s / (size or 1.0)

    results = [scaled(np.asarray(s, np.float64)) for s in scores]
    lowest = min((float(r.min()) for r in results), default=0.0)
    return [r - min(lowest, 0.0) for r in results]


class _Run:
    """One selection: a ledger that goes down to a limit."""

    def __init__(self, ledger: Ledger, lost: list[Floats], limit: float) -> None:
        self.ledger, self.limit = ledger, limit
        self.lost = lost  # per group, summed score of its first n units in order of removal
        self.original = ledger.figure()
        self.trail: list[tuple[float, float]] = [(1.0, 0.0)]

    def kept(self) -> tuple[int, ...]:
        return tuple(int(w[i]) for w, i in zip(self.ledger.widths, self.ledger.level, strict=True))

    def _loss(self, group: int, *, back: bool = False) -> float:
        units = self.ledger.units(group, back=back)
        return float(self.lost[group][units.stop] - self.lost[group][units.start])

    def ranked(self) -> None:
        """Take the step that loses least per cost saved, until the limit is met."""
        front, ledger = Frontier(self.ledger), self.ledger
        loss = np.array([self._loss(g) if ledger.can(g) else np.inf for g in range(len(self.lost))])
        figure = self.original
        while figure > self.limit * _SLACK:
            best = self._cheapest(loss, front.saving, figure - self.limit)
            if best is None:
                return
            if front.blocked(best):
                loss[best] = np.inf
                continue
            figure -= front.saving[best]
            self.trail.append((figure / self.original, self.trail[-1][1] + float(loss[best])))
            front.take(best)
            loss[best] = self._loss(best) if ledger.can(best) else np.inf
        self.give_back(np.zeros(len(self.lost), np.int64))

    @staticmethod
    def _cheapest(loss: Floats, saving: Floats, need: float) -> int | None:
        """Return the group with the least loss per saving; at the end the least loss that suffices."""
        useful = (saving > 0) & np.isfinite(loss)
        if not useful.any():
            return None
        price = np.divide(loss, saving, out=np.full(len(loss), np.inf), where=useful)
        best = int(price.argmin())
        if saving[best] < need:
            return best
        return int(np.where(useful & (saving >= need), loss, np.inf).argmin())

    def common_share(self, share: float) -> None:
        """Let every group lose `share` of its units, as nearly as its widths allow."""
        self.ledger.set(self._levels(share))
        self._note()

    def least_common_share(self) -> None:
        """Let every group lose the least common share that meets the limit."""
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            self.ledger.set(self._levels(middle))
            low, high = (low, middle) if self.ledger.figure() <= self.limit * _SLACK else (middle, high)
        self.ledger.set(self._levels(high))
        self._note()
        self.give_back(self._levels(low))

    def _note(self) -> None:
        """Enter the present state into the trail."""
        lost = (float(s[len(s) - 1 - k]) for s, k in zip(self.lost, self.kept(), strict=True))
        self.trail.append((self.ledger.figure() / self.original, sum(lost)))

    def _levels(self, share: float) -> Ints:
        """Return per group the level whose width is nearest to losing `share`; ties to the smaller."""
        targets = [(1 - share) * w[0] for w in self.ledger.widths]
        nearest = [len(w) - 1 - int(np.abs(w[::-1] - t).argmin()) for w, t in zip(self.ledger.widths, targets, strict=True)]
        return np.array(nearest, np.int64)

    def give_back(self, least_level: Ints) -> None:
        """Give back the step that is worth most per cost and still fits, until none does.

        No group goes below `least_level`.
        """
        ledger, figure = self.ledger, self.ledger.figure()
        open_groups = {g for g in range(len(self.lost)) if ledger.level[g] > least_level[g]}
        while open_groups:
            best: tuple[float, int, Floats, float] | None = None
            for group in sorted(open_groups):
                change = ledger.change(group, back=True)
                growth = ledger.growth(change)
                if figure + growth > self.limit * _SLACK:
                    open_groups.discard(group)  # a step grows dearer as others come back, never cheaper
                    continue
                worth = self._loss(group, back=True) / max(growth, 1e-300)
                if best is None or worth > best[0]:
                    best = worth, group, change, growth
            if best is None:
                return
            _, group, change, growth = best
            self.trail.append(
                ((figure + growth) / self.original, self.trail[-1][1] - self._loss(group, back=True))
            )
            ledger.move(group, change, back=True)
            figure += growth
            if ledger.level[group] <= least_level[group]:
                open_groups.discard(group)


def figures(cost: CostModel, lengths: Floats) -> Figures:
    """Return the figures at a ledger's lengths."""
    axes = len(cost.roots) + 1
    each = cost.macs(lengths[:axes]), cost.params(lengths[:axes]), cost.size(lengths[:axes])
    return Figures(*each, units=int(lengths[axes:].sum()))


def _untouched(cost: CostModel, figure: Figure, options: Options) -> Ledger:
    """Return a ledger at full widths whose units go by number."""
    order = [np.arange(len(g), dtype=np.int64) for g in cost.analysis.groups]
    return Ledger(cost, figure, order, allowed_widths(cost.analysis, options))


def _check_scores(cost: CostModel, scores: Sequence[Floats]) -> None:
    sizes = [len(g) for g in cost.analysis.groups]
    if [np.shape(s) for s in scores] != [(n,) for n in sizes] or not all(np.isfinite(s).all() for s in scores):
        raise InternalError("a criterion must give one finite score per unit of every group")


def _unreachable(budget: Budget, limit: float, reachable: float, original: float) -> BudgetError:
    figure: Figure = budget.figure
    return BudgetError(
        f"{budget.asked} is out of reach: at most {amount(figure, limit)} may remain, "
        f"the least reachable is {amount(figure, reachable)} ({reachable / original:.1%} of "
        f"{amount(figure, original)}); ask for less, or lower --floor, --round-to or --keep"
    )
