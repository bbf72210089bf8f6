"""The normal form of a graph, in which the rules see it: frozen, private, without detours.

1. What is computed from shapes and constants only becomes a constant with its original value.
2. Every small weight gets one copy per use (exporters merge equal constants); `Graph.origin` brings
   them together again on save when they are still equal. Large matrices stay tied.
3. Detours of exporters become the simple op they stand for (see `rewrites`).
"""

from __future__ import annotations

import numpy as np

from .core.graph import Graph, captured_names, unique_name
from .core.rules import OP_RULES
from .core.shapes import Shapes, fold, infer
from .rewrites import apply, permutations, pieces, straight_reads

_TIED_ABOVE = 1024  # elements; and of at least two axes


def normalise(graph: Graph) -> tuple[Graph, Shapes]:
    """Return the normal form of `graph` and the shapes of all its tensors."""
    functions = OP_RULES.shape_functions
    shapes = infer(graph, functions)
    result = fold(graph, shapes)
    if cuts := [*pieces(result)]:  # shapes of sequences are unknown, and all that follows them
        result = apply(result, cuts)
        shapes = infer(result, functions)
        result = fold(result, shapes)
    result = private_copies(result)
    if detours := [*permutations(result, shapes), *straight_reads(result, shapes)]:
        result = apply(result, detours)
        return result, infer(result, functions)
    return result, shapes.within(result)


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
