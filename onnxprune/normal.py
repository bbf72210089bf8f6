"""The normal form of a graph, in which the rules see it: frozen, private, without shuffles.

1. What is computed from shapes and constants only becomes a constant with its original value.
2. Every small weight gets one copy per use (exporters merge equal constants); `Graph.origin` brings
   them together again on save when they are still equal. Large matrices stay tied.
3. A permutation written as Reshape-Transpose-Reshape becomes one Gather (channel shuffle).
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, helper

from .core.graph import Graph, captured_names, constant, unique_name
from .core.rules import OP_RULES
from .core.shapes import Shapes, fold, infer
from .core.surgeon import Surgeon

_TIED_ABOVE = 1024  # elements; and of at least two axes


def normalise(graph: Graph) -> tuple[Graph, Shapes]:
    """Return the normal form of `graph` and the shapes of all its tensors."""
    shapes = infer(graph, OP_RULES.shape_functions)
    result = private_copies(fold(graph, shapes))
    shuffles = permutations(result, shapes)
    if shuffles:
        result = as_gathers(result, shuffles)
    return result, infer(result, OP_RULES.shape_functions)


def private_copies(graph: Graph) -> Graph:
    """Give each use of a small weight its own name; values are shared in memory."""
    result = graph.copy()
    seen: set[str] = set()
    bound = {v.name for v in result.outputs}
    bound |= {name for node in result.nodes for name in captured_names(node)}
    for node in result.nodes:
        for slot, name in enumerate(node.input):
            weight = result.weights.get(name)
            if weight is None or name in bound:
                continue
            size = int(np.prod(weight.shape, dtype=np.int64))
            if len(weight.shape) > 1 and size > _TIED_ABOVE:
                continue
            if name not in seen:
                seen.add(name)
                result.origin.setdefault(name, name)
                continue
            twin = unique_name(f"{name}::use", result.weights)
            result.weights[twin] = weight
            result.origin[twin] = name
            node.input[slot] = twin
    return result


def permutations(graph: Graph, shapes: Shapes) -> list[tuple[list[NodeProto], int, np.ndarray]]:
    """Find Reshape-Transpose-Reshape chains that permute one axis: (nodes, axis, permutation)."""
    producers, consumers = graph.producers(), graph.consumers()
    found = []
    for last in graph.nodes:
        if last.op_type != "Reshape" or last.input[0] not in producers:
            continue
        middle = graph.nodes[producers[last.input[0]]]
        if middle.op_type != "Transpose" or middle.input[0] not in producers:
            continue
        first = graph.nodes[producers[middle.input[0]]]
        if first.op_type != "Reshape":
            continue
        inner = [first.output[0], middle.output[0]]
        if any(len(consumers.get(name, [])) != 1 for name in inner):
            continue
        match = _permuted_axis(first, middle, last, shapes)
        if match is not None:
            found.append(([first, middle, last], *match))
    return found


def _permuted_axis(
    first: NodeProto, middle: NodeProto, last: NodeProto, shapes: Shapes
) -> tuple[int, np.ndarray] | None:
    """Return (axis, permutation) if the chain only reorders one static axis."""
    x, wide, y = first.input[0], first.output[0], last.output[0]
    if (
        not all(shapes.known(n) for n in (x, wide, y))
        or shapes.a[x] != shapes.a[y]
        or shapes.b[x] != shapes.b[y]
    ):
        return None
    rank, size = len(shapes.a[x]), len(shapes.a[wide])
    extra = size - rank
    perm = next((list(a.ints) for a in middle.attribute if a.name == "perm"), None)
    if extra < 1 or perm is None:
        return None
    for axis in range(rank):
        inner = list(range(axis, axis + extra + 1))
        outer_kept = all(perm[i] == i for i in range(size) if i not in inner)
        split = shapes.a[wide][axis : axis + extra + 1]
        rest = (*shapes.a[wide][:axis], int(np.prod(split)), *shapes.a[wide][axis + extra + 1 :])
        if (
            outer_kept
            and rest == shapes.a[x]
            and shapes.static(x, axis)
            and perm != list(range(size))
        ):
            order = np.arange(int(np.prod(split))).reshape(split)
            return axis, order.transpose([perm[i] - axis for i in inner]).ravel()
    return None


def as_gathers(graph: Graph, found: list[tuple[list[NodeProto], int, np.ndarray]]) -> Graph:
    """Replace each chain by one Gather with the permutation as index."""
    working = graph.copy()
    surgeon = Surgeon(working)
    added = {}
    for nodes, axis, permutation in found:
        first, _, last = nodes
        index = unique_name(f"{last.output[0]}::permutation", working.weights)
        added[index] = constant(index, permutation.astype(np.int64))
        surgeon.remove([n.output[0] for n in nodes])
        gather = helper.make_node(
            "Gather", [first.input[0], index], [last.output[0]], last.name, axis=axis
        )
        surgeon.insert([gather])
    working.weights.update(added)
    return surgeon.finish()
