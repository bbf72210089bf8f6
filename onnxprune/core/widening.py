"""Bfloat16 as float32: onnxruntime's CPU provider has few kernels for it, and NumPy no such type.

Every bfloat16 is a float32, so the wider model says what the narrow one says, without its rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    numpy_helper,
)

from .graph import Array

_TYPED = ("to", "dtype", "output_dtype", "stash_type")  # attributes that name an element type


def holds_bfloat16(model: ModelProto) -> bool:
    """Tell whether weights, inputs or outputs of a model are bfloat16; nothing is unpacked."""
    graph = model.graph
    kinds = {weight.data_type for weight in graph.initializer}
    kinds |= {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
    return TensorProto.BFLOAT16 in kinds


def widened(model: ModelProto) -> ModelProto:
    """Return a copy of a model, weights inside, with float32 wherever it has bfloat16."""
    wide = ModelProto()
    wide.CopyFrom(model)
    _widen_graph(wide.graph)
    for function in wide.functions:
        _widen_nodes(function.node)
        _widen_values(function.value_info)
    return wide


def wide_feeds(feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Return inputs for a widened model: bfloat16 arrays as float32."""
    return {
        name: array.astype(np.float32) if array.dtype.name == "bfloat16" else array
        for name, array in feeds.items()
    }


def _widen_graph(graph: GraphProto) -> None:
    for weight in graph.initializer:
        _widen_tensor(weight)
    _widen_values([*graph.input, *graph.output, *graph.value_info])
    _widen_nodes(graph.node)


def _widen_nodes(nodes: Iterable[NodeProto]) -> None:
    for node in nodes:
        for attribute in node.attribute:
            _widen_attribute(attribute)


def _widen_attribute(attribute: AttributeProto) -> None:
    if attribute.name in _TYPED and attribute.i == TensorProto.BFLOAT16:
        attribute.i = TensorProto.FLOAT
    if attribute.HasField("t"):
        _widen_tensor(attribute.t)
    for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
        _widen_graph(body)


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.BFLOAT16:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _widen_values(values: Iterable[ValueInfoProto]) -> None:
    for value in values:
        kind = value.type
        while kind.HasField("sequence_type") or kind.HasField("optional_type"):
            inner = kind.sequence_type if kind.HasField("sequence_type") else kind.optional_type
            kind = inner.elem_type
        if kind.tensor_type.elem_type == TensorProto.BFLOAT16:
            kind.tensor_type.elem_type = TensorProto.FLOAT
