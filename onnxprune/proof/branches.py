"""Bodies of If under proof: which were changed, and a model that is made to run one of them."""

from __future__ import annotations

import numpy as np

from ..core.analysis import Mask
from ..core.graph import Graph, constant, unique_name
from ..core.scopes import Scope, key_of


def changed_bodies(mask: Mask) -> list[Scope]:
    """Return the innermost bodies in which some tensor lost positions."""
    shapes, scopes = mask.analysis.shapes, mask.analysis.graph.scopes
    found = {
        scope
        for name, scope in scopes.items()
        if scope and shapes.known(name)
        and any(mask.gone_at(name, i) is not None for i in range(len(shapes.a[name])))
    }  # fmt: skip
    outer = {scope[:depth] for scope in found for depth in range(len(scope))}
    return sorted(found - outer)


def describe(scope: Scope) -> str:
    """Name a body for a message."""
    made, attribute = scope[-1]
    return f"'{attribute}' of the If that makes '{made}'"


def running(graph: Graph, scope: Scope) -> Graph:
    """Return `graph` with the conditions such that this body runs."""
    result, wanted = graph.copy() if graph.scopes else graph.opened(), dict(scope)
    for node in result.nodes:
        made, _ = key_of(node, "")
        if made in wanted and node.op_type == "If":
            name = unique_name(f"{made}::condition", result.weights)
            result.weights[name] = constant(name, np.array(wanted[made] == "then_branch"))
            node.input[0] = name
    return result
