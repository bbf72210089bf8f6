"""Runs the rules over a graph and gathers units into groups; says what is frozen and why."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from .core.analysis import Analysis, Frozen
from .core.declared import Record
from .core.graph import Graph, captured_names
from .core.positions import CouplingError, Space
from .core.quantised import quantised_weights
from .core.rules import OP_RULES, NodeView, RuleError
from .core.shapes import Shapes
from .core.solver import Solution, solve
from .discover import discover
from .grouping import group_units, weight_sources
from .normal import normalise

log = logging.getLogger(__name__)


def analyse(graph: Graph) -> Analysis:
    """Find every group of units that can be removed from `graph`, and what stays, with reasons."""
    discover()
    normal, shapes = normalise(graph)
    space = Space()
    records = [_record(normal, shapes, space, i) for i in range(len(normal.nodes))]
    _protect_faces(normal, shapes, space)
    for axis in space.silent():
        space.protected.setdefault(axis, "no rule speaks of it")
    solution = solve(space)
    groups = group_units(normal, space, solution, records)
    frozen = _frozen(normal, space, solution, records)
    return Analysis(normal, shapes, space, solution, records, groups, frozen)


def _record(graph: Graph, shapes: Shapes, space: Space, index: int) -> Record:
    """Run one rule; a node without one, or whose rule cannot speak for it, is opaque."""
    node = graph.nodes[index]
    rule = OP_RULES.find(node, graph.opsets)
    view = NodeView(graph, shapes, space, index)
    label = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    if rule is None or captured_names(node):
        return _opaque(view, f"no rule for op {label}" if rule is None else f"{label} has a body")
    try:
        rule.function(view)
    except (RuleError, CouplingError, IndexError, KeyError, ValueError, TypeError) as error:
        log.info("node '%s' (%s) is opaque: %s", node.name, label, error)
        return _opaque(
            NodeView(graph, shapes, space, index), f"{label} cannot be described: {error}"
        )
    space.commit(view.said)
    return view.record


def _opaque(view: NodeView, reason: str) -> Record:
    """Protect every axis of everything the node touches."""
    names = [*view.proto.input, *view.proto.output, *captured_names(view.proto)]
    for name in dict.fromkeys(names):
        if name and view.shapes.known(name):
            view.protect(view.axes(name), reason)
    view.space.commit(view.said)
    view.record.opaque = reason
    return view.record


def _protect_faces(graph: Graph, shapes: Shapes, space: Space) -> None:
    """Graph inputs and outputs keep their shape."""
    for kind, values in (("input", graph.inputs), ("output", graph.outputs)):
        for value in values:
            if shapes.known(value.name):
                for number, size in enumerate(shapes.a[value.name]):
                    axis = space.axis(value.name, number, size)
                    space.protected.setdefault(axis.id, f"graph {kind} '{value.name}'")


def _frozen(graph: Graph, space: Space, solution: Solution, records: list[Record]) -> list[Frozen]:
    """List the axes that linear operators write and that stay entirely, with the first reason."""
    result = []
    for tensor, number in _written(graph, space, records):
        axis = space.find(tensor, number)
        if axis is None:
            continue
        root, size = space.root(axis), space.sizes[axis]
        ids = solution.positions(axis)
        if ids is None:
            reasons = [space.protected[a] for a in sorted(space.protected) if space.root(a) == root]
            result.append(Frozen(tensor, number, size, _telling(reasons)))
        elif solution.stays[solution.component[ids]].all():
            first = int(solution.reason[solution.component[ids]].min())
            result.append(Frozen(tensor, number, size, solution.reasons[first]))
    return result


def _written(graph: Graph, space: Space, records: list[Record]) -> Iterator[tuple[str, int]]:
    """Yield the weight axes that linear operators write, real or of integers.

    Of integers: what the operator's cost runs over, but no sum.
    """
    sources, integers = weight_sources(graph, records), quantised_weights(graph, records)
    for record in records:
        if record.linear is not None:
            yield record.linear.weight, record.linear.weight_out
            continue
        inputs = graph.nodes[record.index].input
        roots = {space.root(axis.id) for macs in record.macs for axis in macs.axes}
        summed = {(c.slot, c.number) for c in record.contracts}
        for slot in sorted({slot for slot, _ in summed}):
            weight, axes = sources.get(inputs[slot], ("", ()))
            for i, number in enumerate(axes if weight in integers else ()):
                axis = space.find(weight, number)
                if (slot, i) not in summed and axis is not None and space.root(axis) in roots:
                    yield weight, number


def _telling(reasons: list[str]) -> str:
    """Prefer a reason that names a face of the model or an op to one about lengths."""
    return min(reasons, key=lambda r: (not r.startswith("graph"), not r.startswith("no rule"), r))
