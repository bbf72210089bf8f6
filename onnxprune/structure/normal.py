"""The normal form of a graph, in which the rules see it: frozen, private, without detours.

1. What is computed from shapes and constants only becomes a constant with its original value.
2. Every small weight gets one copy per use (exporters merge equal constants); `Graph.origin` brings
   them together again on save when they are still equal. Large matrices stay tied.
3. Detours of exporters become the simple op they stand for (see `rewrites`).
"""

from __future__ import annotations

import numpy as np

from ..core.graph import Graph, unique_name
from ..core.rules import OP_RULES
from ..core.scopes import captured_names
from ..core.shapes import Shapes, fold, infer
from .choices import settled, without_guesses
from .functions import inlined
from .rewrites import apply, members, permutations, pieces, straight_reads

_TIED_ABOVE = 1024  # elements; and of at least two axes


def normalise(graph: Graph) -> tuple[Graph, Shapes]:
    """Return the normal form of `graph` and the shapes of all its tensors."""
    graph = inlined(graph).opened()
    shapes = _shapes(graph)
    while chosen := dict(settled(graph, shapes)):  # one tells the shapes for the next
        graph = graph.settled(chosen)
        shapes = _shapes(graph)
    result = fold(graph, shapes)
    if cuts := [
        *members(result),
        *pieces(result),
    ]:  # shapes of sequences are unknown, and all that follows them
        result = apply(result, cuts)
        shapes = _shapes(result)
        result = fold(result, shapes)
    result.calls = tuple(call.noticing(result.weights) for call in result.calls)
    result = private_copies(result)
    if detours := [*permutations(result, shapes), *straight_reads(result, shapes)]:
        result = apply(result, detours)
        return result, _shapes(result)
    return result, shapes.within(result)


def _shapes(graph: Graph) -> Shapes:
    return without_guesses(graph, infer(graph, OP_RULES.shape_functions), OP_RULES.shape_functions)


def private_copies(graph: Graph) -> Graph:
    """Give each use of a small weight its own name; values are shared in memory.

    Graph outputs and bodies read the original: its name is theirs.
    """
    result, taken = graph.copy(), graph.names
    seen = set(result.bound)
    seen |= {name for node in result.nodes for name in captured_names(node)}
    result.origin |= {name: name for name in sorted(seen & result.weights.keys())}
    for node in result.nodes:
        for slot, name in enumerate(node.input):
            weight = result.weights.get(name)
            if weight is None:
                continue
            size = int(np.prod(weight.shape, dtype=np.int64))
            if len(weight.shape) > 1 and size > _TIED_ABOVE:
                continue
            if name not in seen:
                seen.add(name)
                result.origin.setdefault(name, name)
                continue
            twin = unique_name(f"{name}::use", taken)
            taken.add(twin)
            result.weights[twin] = weight
            result.origin[twin] = name
            node.input[slot] = twin
    return result
