"""Runs the rules over a graph and gathers units into groups; says what is frozen and why."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence

from ..core.analysis import Analysis, Frozen, Group
from ..core.declared import Record
from ..core.errors import OnnxPruneError
from ..core.faces import Face
from ..core.graph import Graph
from ..core.node import LOOKED_UP
from ..core.positions import CouplingError, Space
from ..core.quantised import quantised_weights
from ..core.rules import OP_RULES, NodeView, RuleError
from ..core.scopes import bodies, captured_names, is_hollow
from ..core.shapes import Shapes
from ..core.solver import Solution, solve
from ..discover import discover
from .grouping import group_units, weight_sources
from .interface import open_faces
from .normal import normalise
from .sites import made_by
from .unlock import Unlock

log = logging.getLogger(__name__)


def analyse(graph: Graph, unlocked: Sequence[Unlock] = ()) -> Analysis:
    """Find every group of units that can be removed from `graph`, and what stays, with reasons.

    Args:
        graph: the model.
        unlocked: what may shrink of that which callers of the model see.

    Raises:
        OnnxPruneError: if something unlocked does not exist, or stays all the same.
    """
    discover()
    normal, shapes = normalise(graph)
    space = Space()
    records = [_record(normal, shapes, space, i) for i in range(len(normal.nodes))]
    faces = open_faces(normal, shapes, space, records, unlocked)
    _protect_the_rest(normal, shapes, space)
    for axis in space.silent():
        space.protected.setdefault(axis, "no rule speaks of it")
    solution = solve(space)
    groups = group_units(normal, space, solution, records)
    frozen = _frozen(normal, space, solution, records, groups)
    _refuse_stuck(faces, space, solution)
    return Analysis(normal, shapes, space, solution, records, groups, frozen, faces)


def _record(graph: Graph, shapes: Shapes, space: Space, index: int) -> Record:
    """Run one rule; a node without one, or whose rule cannot speak for it, is opaque."""
    node = graph.nodes[index]
    rule = OP_RULES.find(node, graph.opsets)
    view = NodeView(graph, shapes, space, index)
    label = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    if not all(map(is_hollow, bodies(node))):
        return _opaque(view, f"read or made by {label} '{made_by(node)}', which has a body")
    if rule is None:
        return _opaque(view, f"no rule for op {label}")
    try:
        rule.function(view)
    except (RuleError, CouplingError, IndexError, KeyError, ValueError, TypeError) as error:
        log.info("node '%s' (%s) is opaque: %s", node.name, label, error)
        return _opaque(
            NodeView(graph, shapes, space, index), f"{label} cannot be described: {error}"
        )
    space.commit(view.said)
    view.record.conditional = bool(graph.scopes.get(made_by(node)))
    return view.record


def _protect_the_rest(graph: Graph, shapes: Shapes, space: Space) -> None:
    """What callers and training algorithms know by its shape keeps it."""
    known = {t.name: f"input '{t.name}', which has a default" for t in graph.defaults}
    known |= dict.fromkeys(
        sorted(graph.trained), "read or updated by the file's training algorithm"
    )
    for name, reason in known.items():
        for number, size in enumerate(shapes.a[name] if shapes.known(name) else ()):
            space.protected.setdefault(space.axis(name, number, size).id, reason)


def _opaque(view: NodeView, reason: str) -> Record:
    """Protect every axis of everything the node touches."""
    names = [*view.proto.input, *view.proto.output, *captured_names(view.proto)]
    for name in dict.fromkeys(names):
        if name and view.shapes.known(name):
            view.protect(view.axes(name), reason)
    view.space.commit(view.said)
    view.record.opaque = reason
    return view.record


def _refuse_stuck(faces: tuple[Face, ...], space: Space, solution: Solution) -> None:
    """Say why something unlocked stays all the same."""
    for face in faces:
        axis = space.find(face.tensor, face.axis)
        why = "no rule speaks of it" if axis is None else _why(space, solution, axis)
        if why is not None:
            known = re.fullmatch(r"graph (input|output) '(.*)'", why)
            hint = f"; --unlock {known[1]}:{known[2]} too" if known else ""
            if why == LOOKED_UP:
                hint = "; --unlock vocabulary:TABLE too"
            raise OnnxPruneError(f"--unlock {face}: it stays, {why}{hint}")


def _frozen(
    graph: Graph, space: Space, solution: Solution, records: list[Record], groups: list[Group]
) -> list[Frozen]:
    """List the axes that linear operators write and that stay entirely, with the first reason."""
    result = []
    owned = {(member.tensor, member.axis) for group in groups for member in group.members}
    for tensor, number in _written(graph, space, records):
        axis = space.find(tensor, number)
        if axis is None:
            continue
        why = _why(space, solution, axis)
        if why is None and (tensor, number) not in owned:
            why = "its channels could only go all at once"
        if why is not None:
            result.append(Frozen(tensor, number, space.sizes[axis], why))
    return result


def _why(space: Space, solution: Solution, axis: int) -> str | None:
    """Return why a whole axis stays; None if something of it can go."""
    root, ids = space.root(axis), solution.positions(axis)
    if ids is None:
        reasons = [space.protected[a] for a in sorted(space.protected) if space.root(a) == root]
        return _telling(reasons)
    if solution.stays[solution.component[ids]].all():
        return solution.reasons[int(solution.reason[solution.component[ids]].min())]
    return None


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
