"""Which tensors of a file are learned: the file does not say, what they are used for does.

A float constant is learned where an operator has weights (`Learned` in its signature), or where
several values of it meet a signal: a float input, or what was computed of one. Through operators on
constants alone (Transpose of a weight) the question is handed on. Masks are not learned, nor what
only meets positions: the frequencies of a rotary embedding.
"""

from __future__ import annotations

from onnx import NodeProto, TensorProto

from ..core.graph import Array, Graph
from .operators import TORCH_OPS, Kind, Operator

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_TENSORS = (Kind.SIGNAL, Kind.LEARNED)
_MASK = 1e4  # weights are smaller; what is added to scores to hide them is larger


def wanted(graph: Graph) -> dict[str, Kind]:
    """Return the tensors that are learned if they are constants that may be, and what they are to it.

    Raises:
        ModelError: if an operator is not carried to PyTorch.
    """
    nodes = [
        (node, TORCH_OPS.find(node, graph.opsets))
        for node in graph.nodes
        if node.op_type != "Constant"
    ]
    signals = _signals(graph, nodes)
    found: dict[str, Kind] = {}
    for node, operator in reversed(nodes):
        for slot, name in enumerate(node.input):
            kind = operator.kind(slot)
            if name in signals or kind not in _TENSORS:
                continue
            if kind is Kind.LEARNED:
                found[name] = kind
            elif signals.intersection(node.input):
                found.setdefault(name, kind)
            elif passed := next((found[y] for y in node.output if y in found), None):
                found.setdefault(name, passed)
    return found


def _signals(graph: Graph, nodes: list[tuple[NodeProto, Operator]]) -> set[str]:
    """Return float inputs, and all that is computed of them or of tables of weights."""
    signals = {v.name for v in graph.inputs if v.type.tensor_type.elem_type in _FLOATS}
    for node, operator in nodes:
        looked_up = operator.kind(0) is Kind.LEARNED  # Gather from a table
        if operator.form is None and (looked_up or signals.intersection(node.input)):
            signals.update(filter(None, node.output))
    return signals


def may_be(array: Array, kind: Kind | None) -> bool:
    """Tell whether values are learned where they are used so: floats, no mask, no lone number."""
    if kind is None or not (array.dtype.kind == "f" or array.dtype.name == "bfloat16"):
        return False
    if kind is Kind.LEARNED:
        return True
    return array.size > 1 and max(array.max(), -array.min()) < _MASK
