"""Scores + budget -> which units go: exactly costed, deterministic, no more than the budget needs.

uniform: the least common share of channels that meets the budget, each width the allowed one nearest.
global: one ranking over all groups by (score lost) / (cost saved) of each group's next step, saved
on the lengths of that moment. Within a group units go in ascending order of score, ties by lowest
number. Steps that turn out not to be needed are given back; then, while there are few groups, some go
further where that lets others come back that are worth more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..core.contracts import Ranking
from ..core.cost import CostModel
from ..core.errors import BudgetError, InternalError, ModelError
from .budget import Budget, Figure, Normalise, Options, written
from .descent import SLACK, Descent
from .grids import grids
from .ledger import Ledger
from .widths import allowed_widths, listed

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Figures:
    """What a model weighs: MACs of one sample, parameters, bytes of the file, removable units."""

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
        before: figures of the original.
        after: figures of what remains.
        trail: float64, shape (S, 2): after each step, the budget's figure as a share of the
            original's, and the summed (normalised) scores of what was removed; none without a budget.
        lost: what was removed as a share of all (normalised) scores; None without a budget.
    """

    units: Ints
    kept: tuple[int, ...]
    before: Figures
    after: Figures
    trail: Floats
    lost: float | None = None


def least(cost: CostModel, options: Options) -> Figures:
    """Return the least figures that any budget can reach: every group at its floor."""
    ledger = _untouched(cost, "units", options)
    ledger.set(ledger.floors())
    return _figures(cost, ledger)


def check(cost: CostModel, budget: Budget, options: Options) -> float:
    """Return the largest value of the budget's figure that meets it; needs no scores.

    Raises:
        BudgetError: if it cannot be reached; names the least reachable figure.
        OnnxPruneError: if a `keep` pattern matches nothing.
    """
    ledger = _untouched(cost, budget.figure, options)
    if not ledger.floors().any():
        raise BudgetError(
            f"{budget.asked}: no group of channels may lose any (see --keep, --floor)"
        )
    original = ledger.figure()
    limit = budget.limit(original)
    ledger.set(ledger.floors())
    _meets(budget, limit, ledger, original)
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
        scores: per group in the order of the analysis' groups, float64, shape (U,), higher = keep;
            where the user listed what to keep, what goes must have the lowest.
        budget: how much may remain. A ratio with uniform scope is met by each axis as nearly as
            the allowed widths are; every other budget is met in full.
        options: scope, rounding, floors, what stays.
        comparable: whether the criterion's scores can be compared between groups as they are.

    Raises:
        BudgetError: if the budget cannot be met; names the least reachable figure.
        OnnxPruneError: if a `keep` pattern matches nothing.
    """
    options = options or Options()
    limit = check(cost, budget, options)
    _check_scores(cost, scores)
    order = [np.argsort(s, kind="stable") for s in scores]
    values = normalised(scores, options.normalise or ("none" if comparable else "mean"))
    lost = [np.append(0.0, np.cumsum(v[o])) for v, o in zip(values, order, strict=True)]
    ledger = Ledger(cost, budget.figure, order, allowed_widths(cost.analysis, options))
    before, original = _figures(cost, ledger), ledger.figure()
    descent = Descent(ledger, lost, grids(cost.analysis), limit)
    scope = options.scope or ("global" if comparable else "uniform")
    if scope == "uniform" and budget.figure == "units":
        descent.common_share(1 - limit / original)
    else:
        descent.ranked() if scope == "global" else descent.least_common_share()
        _meets(budget, limit, ledger, original)
    found = _selection(cost, ledger, order, before, np.array(descent.trail))
    went = sum(float(c[len(c) - 1 - kept]) for c, kept in zip(lost, found.kept, strict=True))
    whole = sum(float(c[-1]) for c in lost)
    return dataclasses.replace(found, lost=went / whole if whole else 0.0)


def as_listed(cost: CostModel, options: Options) -> Selection:
    """Remove what the user's lists of what to keep do not name, and nothing else."""
    ledger = _untouched(cost, "units", options)
    before = _figures(cost, ledger)
    ledger.begin()
    return _selection(cost, ledger, _by_number(cost), before, np.empty((0, 2)))


def follow(cost: CostModel, rankings: Sequence[Ranking], options: Options) -> Selection:
    """Remove what a criterion itself would, each width rounded up to an allowed one.

    Of the units that rounding brings back, the highest scores stay.

    Raises:
        OnnxPruneError: if a `keep` pattern matches nothing.
        InternalError: if a ranking has no choice of its own.
    """
    _check_scores(cost, [ranking.scores for ranking in rankings])
    order, wanted = [], []
    for ranking in rankings:
        if ranking.keep is None:
            raise InternalError("a criterion that chooses must say what it keeps")
        order.append(np.lexsort((ranking.scores, ranking.keep)))
        wanted.append(int(ranking.keep.sum()))
    widths = allowed_widths(cost.analysis, options)
    ledger = Ledger(cost, "units", order, widths)
    before = _figures(cost, ledger)
    ledger.begin()
    # widths descend: the last that is not below what is wanted, or all of them
    steps = [max(int((w >= n).sum()) - 1, 0) for w, n in zip(widths, wanted, strict=True)]
    ledger.set(np.array(steps, np.int64))
    return _selection(cost, ledger, order, before, np.empty((0, 2)))


def _selection(
    cost: CostModel, ledger: Ledger, order: Sequence[Ints], before: Figures, trail: Floats
) -> Selection:
    """Return what a ledger has come to."""
    kept = ledger.kept()
    groups = zip(cost.analysis.groups, order, kept, strict=True)
    gone = [np.empty(0, np.int64), *(g.units[o[: len(o) - k]] for g, o, k in groups)]
    return Selection(np.sort(np.concatenate(gone)), kept, before, _figures(cost, ledger), trail)


@np.errstate(over="ignore")  # of huge scores, the spread is not a number
def normalised(scores: Sequence[Floats], how: Normalise) -> list[Floats]:
    """Return scores that can be compared between groups, none below zero.

    "mean", "sum" and "max" divide by the mean, sum or largest magnitude in the group; "standard"
    subtracts the mean and divides by the standard deviation. If any result is negative, all are
    raised by as much: differences stay, and losing the least important unit costs nothing.
    """
    results = [_scaled(np.asarray(s, np.float64), how) for s in scores]
    lowest = min((float(r.min()) for r in results), default=0.0)
    return [r - min(lowest, 0.0) for r in results]


def _scaled(scores: Floats, how: Normalise) -> Floats:
    size = np.abs(scores)
    least = scores.mean() if how == "standard" else 0.0
    unit = {
        "none": 1.0,
        "mean": size.mean(),
        "sum": size.sum(),
        "max": size.max(),
        "standard": scores.std(),
    }[how]
    scaled: Floats = (scores - least) / (unit or 1.0)
    return scaled


def _untouched(cost: CostModel, figure: Figure, options: Options) -> Ledger:
    """Return a ledger at full widths whose units go by number."""
    return Ledger(cost, figure, _by_number(cost), allowed_widths(cost.analysis, options))


def _by_number(cost: CostModel) -> list[Ints]:
    """Return per group its units by number, those that go because of a list first."""
    return [
        np.argsort(np.zeros(len(group)) if going is None else ~going, kind="stable")
        for group, going in zip(cost.analysis.groups, listed(cost.analysis), strict=True)
    ]


def _figures(cost: CostModel, ledger: Ledger) -> Figures:
    """Return what remains at a ledger's lengths."""
    lengths = ledger.lengths[: ledger.roots + 1]
    return Figures(cost.macs(lengths), cost.params(lengths), cost.size(lengths), sum(ledger.kept()))


def _meets(budget: Budget, limit: float, ledger: Ledger, original: float) -> None:
    """Refuse a ledger, gone as far as it may, that is above the limit."""
    figure, found = budget.figure, ledger.figure()
    if found > limit * SLACK:
        raise BudgetError(
            f"{budget.asked} is out of reach: {written(figure, limit)} may remain, but the least "
            f"reachable is {written(figure, found)} ({found / original:.1%} of "
            f"{written(figure, original)}); ask for less, or lower --floor, --round-to or --keep"
        )


_OVERFLOWS = 1e15  # products of a few such values leave float32


def _check_scores(cost: CostModel, scores: Sequence[Floats]) -> None:
    graph, groups = cost.analysis.graph, cost.analysis.groups
    if len(scores) != len(groups):
        raise InternalError("a criterion must score every group")
    for group, score in zip(groups, scores, strict=True):
        if np.shape(score) == (len(group),) and np.isfinite(score).all():
            continue
        for name in dict.fromkeys(member.tensor for member in group.members):
            if not (np.abs(graph.weights[name].array) < _OVERFLOWS).all():
                raise ModelError(
                    f"weight '{name}' holds values that are not finite or overflow, so its channels "
                    "cannot be compared: mend the model, or leave it out with --keep"
                )
        raise InternalError("a criterion must give one finite score per unit of every group")
