"""From a mask to a plan: what was removed, said in terms of the file's own weights, and why."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, helper
from pydantic import JsonValue

from ..core.analysis import Mask
from ..core.graph import Graph, data_type_name
from ..core.interface import interface_of
from ..core.runtime import installed_wheels
from ..structure.rest import FrozenView, frozen_weights, opaque_nodes
from ..structure.sites import first_readers, made_by, module, site
from .file import (
    INDEX_TYPES,
    Change,
    DataId,
    Edit,
    ModelId,
    Plan,
    PlannedBlock,
    PlannedDepth,
    PlannedFace,
    PlannedGroup,
    PlannedTensor,
    Settings,
    Step,
    to_ranges,
)
from .reapply import removed_units

Floats = NDArray[np.float64]

_NAMED = 8  # places that cannot be pruned, of one reason
_SHOWN = 64  # numbers: larger constants are not shown as edits
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.\w+)+")  # layer1.0.conv1.weight
_PLAIN = {AttributeProto.INT, AttributeProto.FLOAT, AttributeProto.INTS, AttributeProto.FLOATS}


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
    depth: Mask | None = None,
    chosen: PlannedDepth | None = None,
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
        depth: which blocks of the file had been left out when `mask` was made, for what remains.
        chosen: how those were chosen; None: by name.
    """
    graph = mask.analysis.graph
    readers = first_readers(graph)
    return Plan(
        model=model,
        tensors={
            name: _tensor(mask, name, *readers.get(name, (NodeProto(), 0)))
            for name in graph.weights
            if _is_planned(mask, name)
        },
        groups=_groups(mask, scores),
        criterion=criterion,
        selection=selection,
        repair=repair,
        data=data,
        seed=seed,
        versions=dict(versions()),
        edits=tuple(_edits(graph, pruned)) if pruned is not None else (),
        blocks=() if depth is None else tuple(_blocks(depth)),
        depth=chosen,
        interface=faces_of(mask),
        frozen=_some(frozen_weights(mask.analysis)),
        opaque=_some(opaque_nodes(mask.analysis)),
        figures=dict(figures or {}),
        proof=None if proof is None else dict(proof),
    )


def _some(views: tuple[FrozenView, ...]) -> tuple[FrozenView, ...]:
    """Name a few of each; `inspect` names all."""
    return tuple(dataclasses.replace(view, names=view.names[:_NAMED]) for view in views)


@cache
def versions() -> Mapping[str, str]:
    """Versions of what computed the plan; ours only if it is installed and not run from source."""
    installed = {d.name: d.version for d in importlib.metadata.distributions()}
    names = ("onnxprune", "onnx", "numpy", *installed_wheels())
    return {name: installed[name] for name in names if name in installed}


def _is_planned(mask: Mask, name: str) -> bool:
    """Weights are listed; shape constants only when they shrink."""
    weight = mask.analysis.graph.weights[name]
    rank = len(weight.shape)
    if rank and data_type_name(weight.proto.data_type) not in INDEX_TYPES:
        return True
    return any(mask.gone_at(name, axis) is not None for axis in range(rank))


def _tensor(mask: Mask, name: str, reader: NodeProto, slot: int) -> PlannedTensor:
    graph = mask.analysis.graph
    weight, origin = graph.weights[name], graph.origin.get(name, name)
    gone = [mask.gone_at(name, axis) for axis in range(len(weight.shape))]
    return PlannedTensor(
        shape=weight.shape,
        kept=tuple(None if g is None else to_ranges(np.flatnonzero(~g)) for g in gone),
        dtype=data_type_name(weight.proto.data_type),
        site=site(reader, slot),
        origin=None if origin == name else origin,
        parameter=origin if _DOTTED.fullmatch(origin) else None,
        module=module(reader),
    )


def _groups(mask: Mask, scores: Sequence[Floats]) -> tuple[PlannedGroup, ...]:
    gone = removed_units(mask)
    planned = []
    for number, group in enumerate(mask.analysis.groups):
        first = group.members[0]
        width = mask.analysis.graph.weights[first.tensor].shape[first.axis]
        missing = mask.gone_at(first.tensor, first.axis)
        planned.append(
            PlannedGroup(
                name=group.name,
                before=width,
                after=width - (0 if missing is None else int(missing.sum())),
                removed=to_ranges(np.unique(first.index[gone[group.units]])),
                scores=tuple(map(float, scores[number])) if len(scores) else (),
            )
        )
    return tuple(planned)


def faces_of(mask: Mask) -> tuple[PlannedFace, ...]:
    """Return what a mask does to the unlocked parts of the interface."""
    return tuple(
        PlannedFace(p.kind, p.tensor, p.axis, p.size, to_ranges(np.array(p.kept)), p.ids)
        for p in interface_of(mask).parts
    )


def _blocks(depth: Mask) -> Iterator[PlannedBlock]:
    """List blocks with the weights of the file that go with them."""
    graph = depth.analysis.graph
    gone = {name for block in depth.blocks for name in block.weights}
    left = {graph.origin.get(name, name) for name in graph.weights if name not in gone}
    for block in depth.blocks:
        shapes = {graph.origin.get(n, n): graph.weights[n].shape for n in block.weights}
        lost = {name: shape for name, shape in shapes.items() if name not in left}
        yield PlannedBlock(block.name, block.x, block.y, lost)


def _edits(before: Graph, after: Graph) -> list[Edit]:
    """List what surgery changed beside weights: attributes, operators, small integer constants."""
    now = {made_by(node): node for node in after.nodes}
    edits = []
    for node in before.nodes:
        where = made_by(node)
        old, new = _attributes(node), _attributes(now.get(where, node))
        changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        edits += [Edit(where, key, old.get(key), new.get(key)) for key in changed]
    for name, weight in before.weights.items():
        other = after.weights.get(name, weight)
        is_index = data_type_name(weight.proto.data_type) in INDEX_TYPES
        if other is weight or not is_index or weight.array.size > _SHOWN:
            continue
        if not np.array_equal(weight.array, other.array):
            edits.append(Edit(name, "value", weight.array.tolist(), other.array.tolist()))
    return edits


def _attributes(node: NodeProto) -> dict[str, JsonValue]:
    """Return the operator and its attributes of numbers."""
    values: dict[str, JsonValue] = {"op_type": node.op_type}
    for attribute in node.attribute:
        if attribute.type in _PLAIN:
            value = helper.get_attribute_value(attribute)
            values[attribute.name] = list(value) if isinstance(value, Sequence) else value
    return values
