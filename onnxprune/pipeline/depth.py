"""Whole blocks that go beside channels: which, what remains to be met, and one mask for both."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from ..core.analysis import Analysis, Bools, Mask
from ..core.blocks import Block
from ..core.cost import CostModel
from ..core.errors import InternalError, OnnxPruneError
from ..core.listed import units_at
from ..plan import depth_of, read_plan
from ..selection.budget import Budget
from ..structure.blocks import find_blocks
from .request import PruneRequest

Floats = NDArray[np.float64]

_NEAR = 3  # names in a message


def depth_mask(request: PruneRequest, analysis: Analysis) -> Mask | None:
    """Return the blocks that go, as asked for or as a plan says; None: all stay.

    Raises:
        OnnxPruneError: if there is no block of a name, or the plan does not fit.
    """
    if request.plan is not None:
        plan = read_plan(request.plan)
        return depth_of(analysis, plan) if plan.blocks else None
    if not request.dropped:
        return None
    blocks = named_blocks(find_blocks(analysis), request.dropped)
    return analysis.mask(np.empty(0, np.int64), blocks)


def named_blocks(blocks: Sequence[Block], patterns: Sequence[str]) -> tuple[Block, ...]:
    """Return the blocks that names or patterns (`*`, `?`, `[...]`) mean; of nested ones the outer.

    Raises:
        OnnxPruneError: naming the first that matches none, and what is near.
    """
    chosen: dict[str, Block] = {}
    for pattern in patterns:
        found = {b.name: b for b in blocks if b.name == pattern or fnmatchcase(b.name, pattern)}
        if not found:
            raise OnnxPruneError(f"--drop-block '{pattern}': {_unknown(blocks, pattern)}")
        chosen |= found
    gone: set[int] = set()
    outer = []
    for block in sorted(chosen.values(), key=lambda b: -len(b.nodes)):
        if block.nodes[-1] not in gone:  # regions never overlap in part
            outer.append(block)
            gone.update(block.nodes)
    return tuple(sorted(outer, key=lambda b: b.nodes[-1]))


def _unknown(blocks: Sequence[Block], pattern: str) -> str:
    names = [block.name for block in blocks]
    if not names:
        return "the model has no block that can be left out whole"
    near = difflib.get_close_matches(pattern, names, n=_NEAR, cutoff=0.0)
    listed = ", ".join(f"'{name}'" for name in near)
    return (
        f"no block has that name; near it are {listed}; `inspect --blocks` lists all {len(names)}"
    )


def remaining(budget: Budget, whole: CostModel, cost: CostModel) -> Budget | None:
    """Return a budget for what remains without blocks that allows as much; None: it is met already.

    Shares are those of the whole model; but for shares of the units to remove, which are of those
    that remain.

    Raises:
        BudgetError: if the whole model meets it already.
    """
    if budget.figure == "units":
        return budget
    limit = budget.limit(whole.figure(budget.figure))
    if cost.figure(budget.figure) <= limit:
        return None
    return dataclasses.replace(budget, value=limit, relative=False)


def carried(mask: Mask, analysis: Analysis) -> Mask:
    """Return what a mask removes, as a mask of the same model without some blocks.

    Weights keep their names. Where leaving out a block made more prunable, nothing of that goes.

    Args:
        mask: of the whole model.
        analysis: of what remains without the blocks.

    Raises:
        InternalError: if what remains cannot lose just that.
    """
    solution = analysis.solution
    removed, kept = np.zeros((2, len(solution.component)), np.bool_)
    for name, number, axis in _axes(analysis):
        if (ids := solution.positions(axis)) is not None:
            gone = _gone(mask, name, number, len(ids))
            removed[ids[gone]] = kept[ids[~gone]] = True
    units = units_at(analysis, removed, every=False) & ~units_at(analysis, kept, every=False)
    found = analysis.mask(np.flatnonzero(units))
    for name, number, axis in _axes(analysis):
        size = analysis.space.sizes[axis]
        if (_gone(mask, name, number, size) != _gone(found, name, number, size)).any():
            raise InternalError(f"axis {number} of '{name}' loses other positions without blocks")
    return found


def _gone(mask: Mask, name: str, number: int, size: int) -> Bools:
    gone = mask.gone_at(name, number)
    return np.zeros(size, np.bool_) if gone is None else gone


def _axes(analysis: Analysis) -> Iterator[tuple[str, int, int]]:
    """Yield the axes of weights that have positions: weight, number, axis."""
    for name, weight in analysis.graph.weights.items():
        for number in range(len(weight.shape)):
            if (axis := analysis.space.find(name, number)) is not None:
                yield name, number, axis


def carried_scores(
    scores: Sequence[Floats], whole: Analysis, analysis: Analysis
) -> tuple[Floats, ...]:
    """Return scores of the whole model's units as those of what remains without some blocks.

    Returns:
        per group of `analysis` float64, shape (U,); empty where the whole has no such units.
    """
    known = {
        (m.tensor, m.axis, position): score
        for group, each in zip(whole.groups, scores, strict=True)
        for m in group.members
        for owned, score in zip(m.index.tolist(), each.tolist(), strict=True)
        for position in owned
    }
    found = []
    for group in analysis.groups:
        m = group.members[0]
        each = [known.get((m.tensor, m.axis, owned[0])) for owned in m.index.tolist()]
        found.append(np.array([] if None in each else each, np.float64))
    return tuple(found)
