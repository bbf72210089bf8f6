"""Scores + budget -> which units go: exactly costed, deterministic, no more than the budget needs.

uniform: the least common share of channels that meets the budget, each width the allowed one nearest.
global: one ranking over all groups by (score lost) / (cost saved) of each group's next step, saved
on the lengths of that moment. Within a group units go in ascending order of score, ties by lowest
number. At the end, steps that turn out not to be needed are given back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .budget import Budget, Figure, Normalise, Options, written
from .core.analysis import CostModel
from .core.errors import BudgetError, InternalError
from .descent import SLACK, Descent
from .ledger import Ledger
from .widths import allowed_widths, grid_ranks

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
            original's, and the summed (normalised) scores of what was removed.
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
        scores: per group in the order of the analysis' groups, float64, shape (U,), higher = keep.
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
    descent = Descent(ledger, lost, grid_ranks(cost.analysis), limit)
    scope = options.scope or ("global" if comparable else "uniform")
    if scope == "uniform" and budget.figure == "units":
        descent.common_share(1 - limit / original)
    else:
        descent.ranked() if scope == "global" else descent.least_common_share()
        _meets(budget, limit, ledger, original)
    kept = ledger.kept()
    groups = zip(cost.analysis.groups, order, kept, strict=True)
    return Selection(
        units=np.sort(np.concatenate([g.units[o[: len(o) - k]] for g, o, k in groups])),
        kept=kept,
        before=before,
        after=_figures(cost, ledger),
        trail=np.array(descent.trail),
    )


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
    order = [np.arange(len(g), dtype=np.int64) for g in cost.analysis.groups]
    return Ledger(cost, figure, order, allowed_widths(cost.analysis, options))


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


def _check_scores(cost: CostModel, scores: Sequence[Floats]) -> None:
    shapes = [(len(group),) for group in cost.analysis.groups]
    if [np.shape(s) for s in scores] != shapes or not all(np.isfinite(s).all() for s in scores):
        raise InternalError("a criterion must give one finite score per unit of every group")
