"""Runs the rules over a graph and gathers units into groups; says what is frozen and why."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from .core.analysis import Analysis, Frozen, Group, Member, Reader, Role
from .core.declared import Record
from .core.graph import Graph, captured_names
from .core.positions import CouplingError, Space
from .core.rules import OP_RULES, NodeView, RuleError
from .core.shapes import Shapes
from .core.solver import Solution, solve
from .discover import discover
from .normal import normalise

log = logging.getLogger(__name__)
Ints = NDArray[np.int64]


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
    groups = _Grouping(normal, space, solution, records).groups()
    frozen = _frozen(space, solution, records)
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


class _Grouping:
    """Units of equal footprint become a group; each learns which weights and readers it owns."""

    def __init__(
        self, graph: Graph, space: Space, solution: Solution, records: list[Record]
    ) -> None:
        self.graph, self.space, self.solution, self.records = graph, space, solution, records
        self.by_root: dict[int, list[int]] = {}
        for axis in range(len(space.sizes)):
            self.by_root.setdefault(space.root(axis), []).append(axis)
        self.roots = np.full(len(solution.component), -1, np.int64)
        for root, first in solution.base.items():
            self.roots[first : first + space.sizes[root]] = root
        order = np.argsort(solution.component, kind="stable")
        counts = np.bincount(solution.component, minlength=len(solution.stays))
        self.of_component = np.split(order, np.cumsum(counts)[:-1]) if len(counts) else []
        self.roles = self._roles()

    def _roles(self) -> dict[tuple[str, int], Role]:
        """Say for each weight axis whether linear operators write it or sum over it."""
        roles: dict[tuple[str, int], Role] = {}
        for record in self.records:
            node = self.graph.nodes[record.index]
            for contract in record.contracts:
                weight = node.input[contract.slot]
                if weight in self.graph.weights:
                    roles[weight, contract.number] = "consumes"
            for slot in {c.slot for c in record.contracts} if record.macs else ():
                weight = node.input[slot]
                for number in range(
                    len(self.graph.weights[weight].shape) if weight in self.graph.weights else 0
                ):
                    roles.setdefault((weight, number), "produces")
        return roles

    def groups(self) -> list[Group]:
        """Return the groups in the order of their first weight in the graph."""
        prints: dict[tuple[tuple[int, int], ...], list[int]] = {}
        for unit in range(len(self.solution.starts) - 1):
            prints.setdefault(self._footprint(unit), []).append(unit)
        found = [self._group(units, key) for key, units in prints.items()]
        order = {name: i for i, name in enumerate(self._weight_order())}
        groups = [g for g in found if g is not None]
        return sorted(groups, key=lambda g: order.get(g.members[0].tensor, 0))

    def _weight_order(self) -> list[str]:
        names = [n for node in self.graph.nodes for n in node.input if n in self.graph.weights]
        return list(dict.fromkeys(names))

    def _ids(self, unit: int) -> Ints:
        start, end = self.solution.starts[unit], self.solution.starts[unit + 1]
        ids = [self.of_component[c] for c in self.solution.members[start:end]]
        joined: Ints = ids[0] if len(ids) == 1 else np.concatenate(ids)
        return joined[self.roots[joined] >= 0]

    def _footprint(self, unit: int) -> tuple[tuple[int, int], ...]:
        roots, counts = np.unique(self.roots[self._ids(unit)], return_counts=True)
        return tuple(zip(roots.tolist(), counts.tolist(), strict=True))

    def _group(self, units: list[int], footprint: tuple[tuple[int, int], ...]) -> Group | None:
        """Build the group of these units; None if they touch no weight."""
        ids = np.stack([np.sort(self._ids(u)) for u in units])
        index: dict[int, Ints] = {}
        for root, _ in footprint:
            first = self.solution.base[root]
            columns = self.roots[ids] == root
            index[root] = (ids[columns] - first).reshape(len(units), -1)
        members = [
            Member(tensor, number, self.roles.get((tensor, number), "carries"), index[root])
            for root, _ in footprint
            for tensor, number in (self.space.owners[a] for a in self.by_root[root])
            if tensor in self.graph.weights and number >= 0
        ]
        if not members:
            return None
        position = {name: i for i, name in enumerate(self._weight_order())}
        ranks = {"produces": 0, "consumes": 1, "carries": 2}
        members.sort(key=lambda m: (ranks[m.role], position.get(m.tensor, 0)))
        renorms = {self.space.root(a) for a in self.space.renorms}
        wide = min((m.index.shape[1] for m in members if m.role != "carries"), default=1)
        widest = next((m for m in members if m.index.shape[1] == wide), members[0])
        shape = self.graph.weights[widest.tensor].shape
        return Group(
            name=members[0].tensor,
            units=np.array(units, np.int64),
            members=tuple(members),
            readers=tuple(self._readers(index)),
            exact=not any(root in renorms for root, _ in footprint),
            multiplicity=wide,
            width=shape[widest.axis],
        )

    def _readers(self, index: dict[int, Ints]) -> list[Reader]:
        readers = []
        for record in self.records:
            if record.linear is None:
                continue
            axis = self.space.find(record.linear.x, record.linear.x_axis)
            if axis is not None and (root := self.space.root(axis)) in index:
                readers.append(Reader(record.linear, index[root], self.space.sizes[axis]))
        return readers


def _frozen(space: Space, solution: Solution, records: list[Record]) -> list[Frozen]:
    """List the axes that linear operators write and that stay entirely, with the first reason."""
    result = []
    for record in records:
        linear = record.linear
        if linear is None:
            continue
        axis = space.find(linear.weight, linear.weight_out)
        if axis is None:
            continue
        root, size = space.root(axis), space.sizes[axis]
        ids = solution.positions(axis)
        if ids is None:
            reasons = [space.protected[a] for a in sorted(space.protected) if space.root(a) == root]
            result.append(Frozen(linear.weight, linear.weight_out, size, _telling(reasons)))
        elif solution.stays[solution.component[ids]].all():
            number = int(solution.reason[solution.component[ids]].min())
            result.append(Frozen(linear.weight, linear.weight_out, size, solution.reasons[number]))
    return result


def _telling(reasons: list[str]) -> str:
    """Prefer a reason that names a face of the model or an op to one about lengths."""
    return min(reasons, key=lambda r: (not r.startswith("graph"), not r.startswith("no rule"), r))
