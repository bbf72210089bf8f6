"""The file as the converter reads it: functions inlined, merged weights apart, constants in one place.

Both ways start from the same graph, so that a name means the same tensor when values come back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ..core.graph import Array, Graph
from ..files.store import load
from ..structure.functions import inlined
from ..structure.normal import private_copies
from .operators import refusal


def source(model: ModelProto | Graph | Path | str) -> Graph:
    """Return the graph to convert; what was given stays as it is.

    Exporters merge equal constants: small ones get one copy per use, to be trained apart
    (`Graph.to_model` merges those again that are still equal). Large matrices stay tied.
    """
    if isinstance(model, ModelProto):
        model = Graph.from_model(model)
    elif not isinstance(model, Graph):
        model = load(model)
    return private_copies(inlined(model))


def constants(graph: Graph) -> Iterator[tuple[str, Array]]:
    """Yield all tensors that the file holds: initializers, defaults of inputs, Constant nodes."""
    for name, weight in graph.weights.items():
        yield name, dataclasses.replace(weight).array  # a twin: values are not kept twice
    for proto in graph.defaults:
        yield proto.name, numpy_helper.to_array(proto)
    for node in graph.nodes:
        if node.op_type == "Constant":
            yield node.output[0], numpy_helper.to_array(_held(node))


_KINDS = {  # attributes of Constant in place of a tensor
    "value_float": TensorProto.FLOAT,
    "value_floats": TensorProto.FLOAT,
    "value_int": TensorProto.INT64,
    "value_ints": TensorProto.INT64,
}


def _held(node: NodeProto) -> TensorProto:
    """Return what a Constant holds, as a tensor."""
    (attribute,) = node.attribute
    if attribute.name == "value":
        tensor: TensorProto = attribute.t
        return tensor
    value = helper.get_attribute_value(attribute)
    if attribute.name in _KINDS:
        dims = [len(value)] if isinstance(value, list) else []
        return helper.make_tensor("", _KINDS[attribute.name], dims, value if dims else [value])
    raise refusal(node, f"constants as '{attribute.name}' are not carried")
