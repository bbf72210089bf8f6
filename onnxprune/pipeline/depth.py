"""Depth before width: which whole blocks go before channels are chosen from what remains."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np

from ..core.analysis import Analysis, Mask
from ..core.blocks import Block
from ..core.cost import CostModel
from ..core.errors import OnnxPruneError
from ..plan import depth_of, read_plan
from ..selection.budget import Budget
from ..structure.blocks import find_blocks
from .request import PruneRequest

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
    figures = {"macs": CostModel.macs, "params": CostModel.params, "size": CostModel.size}
    weigh = figures[budget.figure]
    limit = budget.limit(weigh(whole, whole.lengths()))
    if weigh(cost, cost.lengths()) <= limit:
        return None
    return dataclasses.replace(budget, value=limit, relative=False)
