"""Linear operators as matrices: weights in and out, biases wherever the node keeps them."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, helper

from .declared import Linear
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


def read_bias(graph: Graph, linear: Linear) -> Array | None:
    """Return the bias vector of the operator, shape (outputs,), or None if it has none of its own."""
    node = _node(graph, linear)
    slot = linear.bias_slot
    if slot is None or slot >= len(node.input) or not node.input[slot]:
        return None
    return graph.weights[node.input[slot]].array


def add_to_bias(graph: Graph, linear: Linear, values: Array) -> None:
    """Add `values`, shape (outputs,), to the operator's bias, in place; creates one if needed.

    A node that takes no bias (MatMul) gets an Add behind it.
    """
    node, old = _node(graph, linear), read_bias(graph, linear)
    dtype = graph.weights[linear.weight].array.dtype
    if old is not None:
        name = node.input[linear.bias_slot or 0]
        graph.weights[name] = graph.weights[name].replace((old + values).astype(dtype))
        return
    taken = [*graph.weights, *(o for n in graph.nodes for o in n.output)]
    name = unique_name(f"{linear.y}::bias", taken)
    graph.weights[name] = constant(name, values.astype(dtype))
    if linear.bias_slot is not None:
        node.input.extend([""] * (linear.bias_slot - len(node.input)))
        del node.input[linear.bias_slot :]
        node.input.append(name)
        return
    final = node.output[0]
    node.output[0] = unique_name(f"{final}::unbiased", taken)
    add = helper.make_node("Add", [node.output[0], name], [final])
    graph.nodes.insert(graph.nodes.index(node) + 1, add)


def _node(graph: Graph, linear: Linear) -> NodeProto:
    """Find the operator's node by its weight and output (indices move when nodes are added)."""
    for node in graph.nodes:
        if linear.weight in node.input and linear.x in node.input:
            return node
    raise KeyError(f"no node reads '{linear.x}' and '{linear.weight}'")
