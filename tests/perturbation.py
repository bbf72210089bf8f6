"""Moves the constants of a model away from the values that hide mistakes.

A fresh network has zero biases, unit scales and equal statistics: whoever forgets to slice or
reorder them changes nothing. After `perturb` no two entries are the same and none is neutral.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}

# Operands whose values say how large or which, not how much, by input index from which on.
SETTINGS = {
    "Clip": 1, "ConstantOfShape": 0, "Expand": 1, "Pad": 1, "Pow": 1, "Range": 0, "Resize": 1,
    "Slice": 1, "Tile": 1, "TopK": 1, "Upsample": 1,
}  # fmt: skip


def perturb(source: Path, target: Path, *, seed: int = 0) -> Path:
    """Writes a copy of a model with each float constant x replaced by x (1 + 0.1 e), 0 by 0.05 e.

    e is standard normal. Left alone: scalars, and whatever sets a size, a bound or an exponent
    (Resize scales, Clip bounds, ...). Variances stay positive. The factors have mean one, so that
    activations of deep networks neither grow nor saturate what follows.

    Args:
        source: an ONNX file.
        target: where to write; may be `source`.
        seed: of e.

    Returns:
        `target`.
    """
    rng = np.random.default_rng(seed)
    model = onnx.load(source)
    nodes = list(_nodes(model.graph))
    settings = _settings(nodes)
    variances = {n.input[4] for n in nodes if n.op_type == "BatchNormalization"}
    for name, tensor in _constants(model.graph):
        if name in settings or tensor.data_type not in FLOATS or not tensor.dims:
            continue
        values = numpy_helper.to_array(tensor)
        noise = rng.standard_normal(values.shape)
        fresh = 0.05 * (np.abs(noise) if name in variances else noise)
        moved = np.where(values == 0, fresh, values.astype(np.float64) * (1 + 0.1 * noise))
        tensor.CopyFrom(numpy_helper.from_array(moved.astype(values.dtype), tensor.name))
    onnx.save(model, target)
    return target


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in [attribute.g, *attribute.graphs]:
                if body.node or body.initializer:
                    yield from _graphs(body)


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for body in _graphs(graph):
        yield from body.node


def _constants(graph: GraphProto) -> Iterator[tuple[str, TensorProto]]:
    for body in _graphs(graph):
        yield from ((tensor.name, tensor) for tensor in body.initializer)
    for node in _nodes(graph):
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            yield node.output[0], node.attribute[0].t


def _settings(nodes: list[NodeProto]) -> set[str]:
    """Names of all tensors that a setting is computed from, back to `Shape`."""
    producers = {name: node for node in nodes for name in node.output}
    waiting = [
        name
        for node in nodes
        if node.op_type in SETTINGS
        for name in node.input[SETTINGS[node.op_type] :]
    ]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        producer = producers.get(name)
        if producer is not None and producer.op_type not in ("Shape", "Size"):
            waiting += producer.input
    return found - {""}
