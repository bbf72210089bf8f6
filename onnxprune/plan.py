"""From a mask to a plan and back: what was removed, said in terms of the file's own weights.

A plan names kept positions of initializers, never unit numbers: units are found anew in the model
at hand, so the plan also fits a newer checkpoint of the same graph, whose equal weights the exporter
may have merged differently.
"""

from __future__ import annotations

import ast
import importlib.metadata
import logging
import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, TensorProto, helper
from pydantic import JsonValue

from .core.analysis import Analysis, Bools, Mask
from .core.errors import OnnxPruneError
from .core.graph import Graph
from .core.runtime import installed_wheels
from .normal import normalise
from .planfile import (
    Change,
    DataId,
    Edit,
    ModelId,
    Plan,
    PlannedGroup,
    PlannedTensor,
    Settings,
    Step,
    read_plan,
    to_json,
    to_ranges,
    write_plan,
)

__all__ = [
    "Change", "DataId", "Edit", "ModelId", "Plan", "PlannedGroup", "PlannedTensor", "Settings", "Step",
    "mask_of", "plan_of", "read_plan", "to_json", "verify_plan", "write_plan",
]  # fmt: skip

log = logging.getLogger(__name__)
Floats = NDArray[np.float64]

_INDEX_TYPES = {TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING}
_SHOWN = 64  # numbers: larger constants are not shown as edits
_NOT_FIT = "the plan does not fit this model: use the model it was made for, or another checkpoint of the same graph"


def plan_of(
    mask: Mask,
    *,
    model: ModelId,
    criterion: Step,
    selection: Settings,
    repair: Step | None = None,
    data: DataId | None = None,
    seed: int = 0,
    scores: Sequence[Floats] = (),
    figures: Mapping[str, Change] | None = None,
    pruned: Graph | None = None,
    proof: Mapping[str, float] | None = None,
) -> Plan:
    """Write down what `mask` removes, and how it was decided.

    Args:
        mask: what is removed.
        model: which file.
        criterion: what scored the units, with its settings.
        selection: budget and options of the selection.
        repair: how what is left was refitted.
        data: which samples.
        seed: of everything drawn.
        scores: per group in the order of the analysis' groups, float64, shape (U,).
        figures: MACs, parameters, bytes, ... before and after.
        pruned: the graph after surgery; its changed attributes and constants are listed.
        proof: figures of the proof.
    """
    graph = mask.analysis.graph
    sites = _sites(graph)
    return Plan(
        model=model,
        tensors={name: _tensor(mask, name, sites) for name in graph.weights if _is_planned(mask, name)},
        groups=_groups(mask, scores),
        criterion=criterion,
        selection=selection,
        repair=repair,
        data=data,
        seed=seed,
        versions=_versions(),
        edits=tuple(_edits(graph, pruned)) if pruned is not None else (),
        figures=dict(figures or {}),
        proof=None if proof is None else dict(proof),
    )


def _versions() -> dict[str, str]:
    names = ["onnx", "numpy", *(["onnxprune"] if _is_installed("onnxprune") else [])]
    return {name: importlib.metadata.version(name) for name in names} | installed_wheels()


def _is_installed(name: str) -> bool:
    return next(iter(importlib.metadata.Distribution.discover(name=name)), None) is not None


def _is_planned(mask: Mask, name: str) -> bool:
    """Weights are listed; shape constants only when they shrink."""
    weight = mask.analysis.graph.weights[name]
    rank = len(weight.shape)
    if rank and weight.proto.data_type not in _INDEX_TYPES:
        return True
    return any(mask.gone_at(name, axis) is not None for axis in range(rank))


def _tensor(mask: Mask, name: str, sites: Mapping[str, tuple[NodeProto, int]]) -> PlannedTensor:
    graph = mask.analysis.graph
    weight, origin = graph.weights[name], graph.origin.get(name, name)
    gone = [mask.gone_at(name, axis) for axis in range(len(weight.shape))]
    node, slot = sites.get(name, (NodeProto(), 0))
    return PlannedTensor(
        shape=weight.shape,
        kept=tuple(None if g is None else to_ranges(np.flatnonzero(~g)) for g in gone),
        dtype=TensorProto.DataType.Name(weight.proto.data_type),  # type: ignore[arg-type]
        site=_site(node, slot),
        origin=None if origin == name else origin,
        parameter=origin if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)+", origin) else None,
        module=_module(node),
    )


def _sites(graph: Graph) -> dict[str, tuple[NodeProto, int]]:
    """Map each weight to the first node and slot that reads it."""
    sites: dict[str, tuple[NodeProto, int]] = {}
    for node in graph.nodes:
        for slot, name in enumerate(node.input):
            if name in graph.weights:
                sites.setdefault(name, (node, slot))
    return sites


def _site(node: NodeProto, slot: int) -> str:
    return f"{next(iter(filter(None, node.output)), '')}:{slot}"


def _module(node: NodeProto) -> str | None:
    """Return the PyTorch module a node came from, as either exporter notes it.

    Dynamo: metadata `name_scopes`, "['', 'a', 'a.0', 'conv2d']". TorchScript: the node's name,
    "/a/a.0/Conv"; a part that does not repeat its parent is a child of it.
    """
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes" and entry.value.startswith("["):
            scopes = ast.literal_eval(entry.value)
            return str(scopes[-2]) or None if len(scopes) > 1 else None
    if not node.name.startswith("/"):
        return None
    path = ""
    for part in node.name.split("/")[1:-1]:
        path = part if not path or part.startswith(f"{path}.") else f"{path}.{part}"
    return path or None


def _groups(mask: Mask, scores: Sequence[Floats]) -> tuple[PlannedGroup, ...]:
    gone = removed_units(mask)
    planned = []
    for number, group in enumerate(mask.analysis.groups):
        first = group.members[0]
        all_gone = mask.gone_at(first.tensor, first.axis)
        planned.append(
            PlannedGroup(
                name=group.name,
                before=group.width,
                after=group.width - (0 if all_gone is None else int(all_gone.sum())),
                removed=to_ranges(np.unique(first.index[gone[group.units]])),
                scores=tuple(float(f"{s:.9g}") for s in scores[number]) if len(scores) else (),
            )
        )
    return tuple(planned)


def removed_units(mask: Mask) -> Bools:
    """Return which units a mask removes: bool, shape (U,)."""
    solution = mask.analysis.solution
    gone = np.zeros(len(solution.stays), np.bool_)
    gone[solution.component[mask.removed]] = True
    return _every(gone, mask.analysis)


def _every(component: Bools, analysis: Analysis) -> Bools:
    """Reduce a claim about components to units: true where it holds for all of a unit's components."""
    starts, members = analysis.solution.starts, analysis.solution.members
    if len(starts) <= 1:
        return np.zeros(0, np.bool_)
    result: Bools = np.logical_and.reduceat(component[members], starts[:-1])
    return result


def _edits(before: Graph, after: Graph) -> list[Edit]:
    """List what surgery changed beside the weights: attributes, operators, small integer constants."""
    now = {_site(node, 0): node for node in after.nodes}
    edits = []
    for node in before.nodes:
        twin = now.get(_site(node, 0), node)
        old, new = _attributes(node), _attributes(twin)
        where = _site(node, 0).removesuffix(":0")
        edits += [Edit(where, k, old.get(k), new.get(k)) for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
    for name, weight in before.weights.items():
        other = after.weights.get(name)
        if other is None or other is weight or weight.proto.data_type not in _INDEX_TYPES:
            continue
        if weight.array.size <= _SHOWN and not np.array_equal(weight.array, other.array):
            edits.append(Edit(name, "value", weight.array.tolist(), other.array.tolist()))
    return edits


def _attributes(node: NodeProto) -> dict[str, JsonValue]:
    shown = {AttributeProto.INT, AttributeProto.FLOAT, AttributeProto.INTS, AttributeProto.FLOATS}
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.type in shown}
    return {"op_type": node.op_type} | {k: list(v) if isinstance(v, Sequence) else v for k, v in values.items()}


def mask_of(analysis: Analysis, plan: Plan, *, sha256: str | None = None) -> Mask:
    """Find what a plan removes in this model: the model it was made for, or a newer checkpoint.

    The units all of whose weight positions the plan removes are removed; their union must be the
    plan's, position by position.

    Args:
        analysis: of the model at hand.
        plan: what to remove.
        sha256: of the model at hand; a warning is logged when the plan was made for another.

    Raises:
        OnnxPruneError: naming the first tensor and axis that do not fit.
    """
    if sha256 is not None and sha256 != plan.model.sha256:
        log.warning("the plan was made for another file ('%s'): it is applied by the names of weights", plan.model.name)
    names = _found(analysis.graph, plan)
    removed, kept = _claims(analysis, plan, names)
    solution = analysis.solution
    spared = np.zeros(len(solution.stays), np.bool_)
    spared[solution.component[kept]] = True
    touched = np.zeros(len(solution.stays), np.bool_)
    touched[solution.component[removed]] = True
    units = _every(~spared, analysis) & ~_every(~touched, analysis)
    mask = analysis.mask(np.flatnonzero(units))
    for planned, name in names.items():
        tensor = plan.tensors[planned]
        for axis in range(len(tensor.shape)):
            gone = mask.gone_at(name, axis)
            here = np.arange(tensor.shape[axis]) if gone is None else np.flatnonzero(~gone)
            if not np.array_equal(here, tensor.positions(axis)):
                raise OnnxPruneError(
                    f"axis {axis} of '{name}' cannot keep the planned {len(tensor.positions(axis))} positions of "
                    f"{tensor.shape[axis]}, with all that hangs on them {len(here)} would stay: {_NOT_FIT}"
                )
    if emptied := mask.emptied():
        raise OnnxPruneError(f"axis {emptied[0][1]} of '{emptied[0][0]}' would keep nothing: {_NOT_FIT}")
    return mask


def _found(graph: Graph, plan: Plan) -> dict[str, str]:
    """Map planned names to weights of `graph`, of the shapes planned."""
    names = {}
    for planned, name in _resolved(graph, plan).items():
        if name is None:
            raise OnnxPruneError(f"there is no weight '{planned}': {_NOT_FIT}")
        expected, found = plan.tensors[planned].shape, graph.weights[name].shape
        if expected != found:
            raise OnnxPruneError(f"'{name}' has shape {list(found)}, the plan expects {list(expected)}: {_NOT_FIT}")
        names[planned] = name
    return names


def _resolved(graph: Graph, plan: Plan) -> dict[str, str | None]:
    """Find each planned tensor in a graph in normal form: by name, else by the node that reads it.

    A copy that the normal form made per use has no name of its own in the file: its reader goes first.
    """
    by_site = {
        _site(node, slot): name
        for node in graph.nodes
        for slot, name in enumerate(node.input)
        if name in graph.weights
    }  # fmt: skip
    result: dict[str, str | None] = {}
    for name, tensor in plan.tensors.items():
        own = name if name in graph.weights else None
        read = by_site.get(tensor.site)
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
            if ids is None:
                continue
            stays = np.zeros(len(ids), np.bool_)
            stays[tensor.positions(axis)] = True
            kept[ids[stays]] = True
            removed[ids[~stays]] = True
    return removed, kept


def verify_plan(graph: Graph, plan: Plan) -> list[str]:
    """Say where a graph lacks the planned structure: one line per weight; none means that it fits.

    Args:
        graph: as read from a file, for example exported anew after training.
        plan: what it should have kept.
    """
    normal, _ = normalise(graph)
    index = {TensorProto.DataType.Name(kind) for kind in _INDEX_TYPES}  # type: ignore[arg-type]
    problems = []
    for planned, name in _resolved(normal, plan).items():
        tensor = plan.tensors[planned]
        if tensor.dtype in index:
            continue
        expected = list(tensor.shape_after)
        if name is None:
            problems.append(f"weight '{planned}' of shape {expected} is missing")
        elif (found := list(normal.weights[name].shape)) != expected:
            problems.append(f"weight '{planned}' has shape {found}, planned {expected}")
    return problems
