"""Conditions that are the same for every input: the body of If that always runs is no choice."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from ..core.graph import Graph
from ..core.scopes import is_choice, is_hollow, key_of
from ..core.shapes import ShapeFunction, Shapes, instantiate

Functions = Mapping[tuple[str, str], ShapeFunction]

# An exporter that does not know whether a dimension is 1 (squeeze) asks at run time. Two instances of
# larger numbers agree that it is not; that holds only if it does not depend on unknown dimensions.
_ONES = (1, 1, 64), (1, 1, 224), (1, 1021, 64)


def without_guesses(graph: Graph, shapes: Shapes, functions: Functions) -> Shapes:
    """Return `shapes` without frozen values that are others where unknown dimensions are 1.

    Asked only where something is chosen by them: it takes a third instance.
    """
    if not any(node.op_type == "If" for node in graph.nodes):
        return shapes
    found = (instantiate(graph, functions, sizes=sizes) for sizes in _ONES)
    ones = next((instance.values for instance in found if instance is not None), {})
    frozen = {
        name: value
        for name, value in shapes.frozen.items()
        if (name in ones and ones[name].tobytes() == value.tobytes())
        or (not ones and value.dtype.kind != "b")
    }
    return dataclasses.replace(shapes, frozen=frozen)


def settled(graph: Graph, shapes: Shapes) -> Iterator[tuple[str, str]]:
    """Yield (first output of an If, attribute of the body that always runs)."""
    for node in graph.nodes:
        first, _ = key_of(node, "")
        if not is_choice(node) or first not in graph.scopes or len(node.input) != 1:
            continue
        weight = graph.weights.get(node.input[0])
        value = shapes.frozen.get(node.input[0]) if weight is None else weight.array
        if value is None or value.size != 1:
            continue
        chosen = "then_branch" if value.item() else "else_branch"
        counts = [len(a.g.output) for a in node.attribute if a.name == chosen and is_hollow(a.g)]
        if counts == [len(node.output)]:
            yield first, chosen
