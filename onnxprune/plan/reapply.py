"""Finds what a plan removes in the model at hand, and whether a model has the planned structure.

A plan names kept positions of initializers, never unit numbers: units are found anew, so the plan
also fits a newer checkpoint of the same graph, whose equal weights the exporter may have merged
differently.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from ..core.analysis import Analysis, Bools, Mask
from ..core.errors import OnnxPruneError
from ..core.graph import Graph
from ..core.listed import units_at
from ..structure.blocks import find_blocks
from ..structure.normal import normalise
from ..structure.sites import by_site
from .file import Plan, PlannedBlock

log = logging.getLogger(__name__)

_NOT_FIT = (
    "the plan does not fit this model: "
    "use the model it was made for, or another checkpoint of the same graph"
)


def removed_units(mask: Mask) -> Bools:
    """Return which units a mask removes: bool, shape (U,)."""
    return units_at(mask.analysis, mask.removed, every=True)


def depth_of(analysis: Analysis, plan: Plan) -> Mask:
    """Find the blocks that a plan leaves out; `mask_of` speaks of what remains without them.

    Raises:
        OnnxPruneError: naming the first block that this model does not have.
    """
    found = {(b.x, b.y): b for b in find_blocks(analysis)} if plan.blocks else {}
    missing = [b for b in plan.blocks if (b.x, b.y) not in found]
    if missing:
        raise OnnxPruneError(f"there is no block '{missing[0].name}': {_NOT_FIT}")
    blocks = tuple(found[block.x, block.y] for block in plan.blocks)
    return analysis.mask(np.empty(0, np.int64), blocks)


def _is_there(graph: Graph, block: PlannedBlock) -> bool:
    """Tell whether a graph still has all weights of a block."""
    shapes = {name: weight.shape for name, weight in graph.weights.items()}
    return bool(block.weights) and block.weights.items() <= shapes.items()


def mask_of(analysis: Analysis, plan: Plan, *, sha256: str | None = None) -> Mask:
    """Find what a plan removes in this model: the model it was made for, or a newer checkpoint.

    The units all of whose weight positions the plan removes are removed; their union must be the
    plan's, position by position.

    Args:
        analysis: of the model at hand, without the blocks that the plan leaves out.
        plan: what to remove.
        sha256: of the model at hand; a warning is logged when the plan was made for another.

    Raises:
        OnnxPruneError: naming the first tensor and axis that do not fit.
    """
    if sha256 is not None and sha256 != plan.model.sha256:
        log.warning("the plan was made for another file ('%s'): applied by name", plan.model.name)
    for block in plan.blocks:
        if _is_there(analysis.graph, block):
            raise OnnxPruneError(f"the plan leaves out block '{block.name}' before: use `depth_of`")
    return mask_by(analysis, plan, _found(analysis.graph, plan))


def mask_by(analysis: Analysis, plan: Plan, names: Mapping[str, str]) -> Mask:
    """Find what a plan removes in a model some of whose weights are known to be planned ones.

    Args:
        analysis: of the model at hand.
        plan: what to remove.
        names: planned weight -> weight of the model, of the same shape and layout.

    Raises:
        OnnxPruneError: naming the first tensor and axis that do not fit.
    """
    removed, kept = _claims(analysis, plan, names)
    gone = units_at(analysis, removed, every=False) & ~units_at(analysis, kept, every=False)
    mask = analysis.mask(np.flatnonzero(gone))
    _check_fit(mask, plan, names)
    if emptied := mask.emptied():
        tensor, axis = emptied[0]
        raise OnnxPruneError(f"axis {axis} of '{tensor}' would keep nothing: {_NOT_FIT}")
    return mask


def _found(graph: Graph, plan: Plan) -> dict[str, str]:
    """Map planned names to weights of `graph`, of the shapes planned."""
    names = {}
    for planned, name in _resolved(graph, plan).items():
        if name is None:
            raise OnnxPruneError(f"there is no weight '{planned}': {_NOT_FIT}")
        expected, found = list(plan.tensors[planned].shape), list(graph.weights[name].shape)
        if expected != found:
            raise OnnxPruneError(f"'{name}' has shape {found}, planned {expected}: {_NOT_FIT}")
        names[planned] = name
    return names


def _resolved(graph: Graph, plan: Plan) -> dict[str, str | None]:
    """Find each planned tensor in a graph in normal form: by name, else by the node that reads it.

    A copy that the normal form made per use has no name in the file: its reader goes first.
    """
    readers = by_site(graph)
    result: dict[str, str | None] = {}
    for name, tensor in plan.tensors.items():
        own = name if name in graph.weights else None
        read = readers.get(tensor.site)
        result[name] = (own or read) if tensor.origin is None else (read or own)
    return result


def _claims(analysis: Analysis, plan: Plan, names: Mapping[str, str]) -> tuple[Bools, Bools]:
    """Return which positions the plan removes and which it keeps: bool, shape (P,) each."""
    solution = analysis.solution
    removed, kept = np.zeros((2, len(solution.component)), np.bool_)
    for planned, name in names.items():
        tensor = plan.tensors[planned]
        for axis in range(len(tensor.shape)):
            number = analysis.space.find(name, axis)
            ids = None if number is None else solution.positions(number)
            if ids is not None:
                stays = np.zeros(len(ids), np.bool_)
                stays[tensor.positions(axis)] = True
                kept[ids[stays]] = True
                removed[ids[~stays]] = True
    return removed, kept


def _check_fit(mask: Mask, plan: Plan, names: Mapping[str, str]) -> None:
    """Refuse a mask that keeps other positions than planned."""
    for planned, name in names.items():
        tensor = plan.tensors[planned]
        for axis, size in enumerate(tensor.shape):
            gone = mask.gone_at(name, axis)
            found = np.arange(size) if gone is None else np.flatnonzero(~gone)
            expected = tensor.positions(axis)
            if not np.array_equal(found, expected):
                raise OnnxPruneError(
                    f"axis {axis} of '{name}' cannot keep just the {len(expected)} of {size} "
                    f"positions planned, {len(found)} have to stay: {_NOT_FIT}"
                )


def verify_plan(graph: Graph, plan: Plan) -> list[str]:
    """Say where a graph lacks the planned structure: a line per weight or block; none: it fits.

    Args:
        graph: as read from a file, for example exported anew after training.
        plan: what it should have kept.
    """
    normal, _ = normalise(graph)
    weights = graph.weights | normal.weights  # a view of one that became small is folded
    problems = [f"block '{b.name}' is still there" for b in plan.blocks if _is_there(normal, b)]
    for planned, resolved in _resolved(normal, plan).items():
        name = resolved or (planned if planned in weights else None)
        tensor = plan.tensors[planned]
        expected = list(tensor.shape_after)
        if tensor.is_index:
            continue  # shape constants follow from the weights; exporters write them as they like
        if name is None:
            problems.append(f"weight '{planned}' of shape {expected} is missing")
        elif (found := list(weights[name].shape)) != expected:
            problems.append(f"weight '{planned}' has shape {found}, planned {expected}")
    return problems
