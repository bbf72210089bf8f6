"""Which tensors of a file are learned: the file does not say, what they are used for does.

A float constant is learned where an operator has weights (`Learned` in its signature), or where
several values of it meet a signal: a float input, or what was computed of one. Through operators on
constants alone (Transpose of a weight) the question is handed on. Masks are not learned, nor what
only meets positions: the frequencies of a rotary embedding.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto

from ..core.graph import Array, Graph
from .operators import TORCH_OPS, Kind, Operator
from .source import constants

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_TENSORS = (Kind.SIGNAL, Kind.LEARNED)
_MASK = 1e4  # weights are smaller; what is added to scores to hide them is larger


def learned(graph: Graph) -> set[str]:
    """Return the names of the constants that are parameters.

    Raises:
        ModelError: if an operator is not carried to PyTorch.
    """
    nodes = [
        (node, TORCH_OPS.find(node, graph.opsets))
        for node in graph.nodes
        if node.op_type != "Constant"
    ]
    held = dict(constants(graph))
    signals = _signals(graph, nodes)
    wanted: dict[str, Kind] = {}
    for node, operator in reversed(nodes):
        for slot, name in enumerate(node.input):
            kind = operator.kind(slot)
            if name in signals or kind not in _TENSORS:
                continue
            if kind is Kind.LEARNED:
                wanted[name] = kind
            elif signals.intersection(node.input):
                wanted.setdefault(name, kind)
            elif passed := next((wanted[y] for y in node.output if y in wanted), None):
                wanted.setdefault(name, passed)
    return {name for name, kind in wanted.items() if name in held and _may(held[name], kind)}


def _signals(graph: Graph, nodes: list[tuple[NodeProto, Operator]]) -> set[str]:
    """Return float inputs, and all that is computed of them or of tables of weights."""
    signals = {v.name for v in graph.inputs if v.type.tensor_type.elem_type in _FLOATS}
    for node, operator in nodes:
        looked_up = operator.kind(0) is Kind.LEARNED  # Gather from a table
        if operator.form is None and (looked_up or signals.intersection(node.input)):
            signals.update(filter(None, node.output))
    return signals


def _may(array: Array, kind: Kind) -> bool:
    """Tell whether values can be learned: floats, not a mask, not one number of a formula."""
    if array.dtype.kind not in "fV" and array.dtype.name != "bfloat16":
        return False
    values = np.abs(array.astype(np.float32))
    return (kind is Kind.LEARNED or array.size > 1) and bool(values.max(initial=0.0) < _MASK)
