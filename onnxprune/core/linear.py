"""Linear operators as matrices: weights in and out, biases wherever the node keeps them."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, helper

from .declared import Linear
from .errors import InternalError
from .graph import Array, Graph, constant, unique_name


def weight_matrices(weight: Array, linear: Linear) -> Array:
    """Return a weight as matrices, shape (G, q, p): per convolution group, outputs x columns.

    Columns are (channel, tap), channel-major: the layout of `SecondMoments` and of patches.
    """
    matrix = np.moveaxis(weight, (linear.weight_out, linear.weight_in), (0, 1))
    outputs = matrix.shape[0]
    return matrix.reshape(linear.groups, outputs // linear.groups, -1)


def weight_tensor(matrices: Array, linear: Linear, dtype: np.dtype[np.generic]) -> Array:
    """Undo `weight_matrices`: shape (G, q, p) back to the file's layout."""
    groups, outputs, width = matrices.shape
    taps = int(np.prod(linear.kernel, dtype=np.int64))
    tensor = matrices.reshape(groups * outputs, width // taps, *linear.kernel)
    return np.ascontiguousarray(
        np.moveaxis(tensor, (0, 1), (linear.weight_out, linear.weight_in)), dtype=dtype
    )


def ensure_bias(graph: Graph, linear: Linear, outputs: int) -> str:
    """Return the name of the operator's bias vector, shape (outputs,); creates zeros if it has none.

    A node that takes no bias (MatMul) uses the Add behind it, or gets one.
    """
    node = _node(graph, linear)
    slot = linear.bias_slot
    if slot is not None and slot < len(node.input) and node.input[slot]:
        return str(node.input[slot])
    behind = _bias_behind(graph, node, outputs) if slot is None else None
    if behind is not None:
        return behind
    taken = [*graph.weights, *(o for n in graph.nodes for o in n.output)]
    name = unique_name(f"{linear.y}::bias", taken)
    dtype = graph.weights[linear.weight].array.dtype
    graph.weights[name] = constant(name, np.zeros(outputs, dtype))
    if slot is not None:
        node.input.extend([""] * (slot + 1 - len(node.input)))
        node.input[slot] = name
        return name
    final = node.output[0]
    node.output[0] = unique_name(f"{final}::unbiased", taken)
    add = helper.make_node("Add", [node.output[0], name], [final])
    graph.nodes.insert(_place(graph, node) + 1, add)
    return name


def write_bias(graph: Graph, linear: Linear, values: Array) -> None:
    """Set the operator's bias, shape (outputs,), in place."""
    name = ensure_bias(graph, linear, len(values))
    old = graph.weights[name].array
    graph.weights[name] = graph.weights[name].replace(values.astype(old.dtype).reshape(old.shape))


def add_to_bias(graph: Graph, linear: Linear, values: Array) -> None:
    """Add `values`, shape (outputs,), to the operator's bias, in place."""
    name = ensure_bias(graph, linear, len(values))
    write_bias(graph, linear, graph.weights[name].array.ravel() + values)


def _bias_behind(graph: Graph, node: NodeProto, outputs: int) -> str | None:
    """Return the vector that the only reader of the node adds to it, if it is one along the last axis."""
    readers = [n for n in graph.nodes if node.output[0] in n.input]
    if (
        len(readers) != 1
        or readers[0].op_type != "Add"
        or node.output[0] in {v.name for v in graph.outputs}
    ):
        return None
    other = next((i for i in readers[0].input if i != node.output[0]), "")
    if other not in graph.weights or sum(other in n.input for n in graph.nodes) != 1:
        return None
    shape = graph.weights[other].shape
    return other if shape and shape[-1] == outputs == int(np.prod(shape, dtype=np.int64)) else None


def _place(graph: Graph, node: NodeProto) -> int:
    return next(i for i, other in enumerate(graph.nodes) if other is node)


def _node(graph: Graph, linear: Linear) -> NodeProto:
    """Find the operator's node by what it reads (indices move when nodes are added)."""
    for node in graph.nodes:
        if linear.weight in node.input and linear.x in node.input:
            return node
    raise InternalError(f"no node reads '{linear.x}' and '{linear.weight}'")
