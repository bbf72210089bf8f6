"""Gathers units of equal footprint into groups, with the weights and readers that they own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..core.analysis import Group, Member, Reader, Role
from ..core.declared import Linear, Record
from ..core.graph import Graph
from ..core.positions import Space
from ..core.solver import Solution

Ints = NDArray[np.int64]
_RANKS: dict[Role, int] = {"produces": 0, "consumes": 1, "carries": 2}


def group_units(
    graph: Graph, space: Space, solution: Solution, records: list[Record]
) -> list[Group]:
    """Return the groups of a solved graph, in the order of their first weight in the graph.

    The footprint of a unit is how many positions it owns on each axis root. Units that touch no
    weight, or own a whole axis, are in no group.
    """
    return _Grouping(graph, space, solution, records).groups()


class _Grouping:
    def __init__(
        self, graph: Graph, space: Space, solution: Solution, records: list[Record]
    ) -> None:
        self.graph, self.space, self.solution = graph, space, solution
        self.by_root: dict[int, list[int]] = {}
        for axis in range(len(space.sizes)):
            self.by_root.setdefault(space.root(axis), []).append(axis)
        self.roots = np.full(len(solution.component), -1, np.int64)
        for root, first in solution.base.items():
            self.roots[first : first + space.sizes[root]] = root
        self.renorms = {space.root(axis) for axis in space.renorms}
        self.roles = _roles(graph, records)
        self.readers = self._readers_by_root(records)
        names = (n for node in graph.nodes for n in node.input if n in graph.weights)
        self.place = {name: i for i, name in enumerate(dict.fromkeys(names))}

    def groups(self) -> list[Group]:
        starts, positions = self._positions()
        found = [self._group(units, starts, positions) for units in self._alike(starts, positions)]
        groups = [g for g in found if g is not None]
        return sorted(groups, key=lambda g: self.place.get(g.members[0].tensor, 0))

    def _positions(self) -> tuple[Ints, Ints]:
        """Return the positions that each unit owns on axes, ascending, in CSR form."""
        real = np.flatnonzero(self.roots >= 0)  # the rest stands in for axes that stay
        component = self.solution.component[real]
        by_component = real[np.argsort(component, kind="stable")]
        counts = np.bincount(component, minlength=len(self.solution.stays))
        members, units = self.solution.members, np.diff(self.solution.starts)
        chosen, lengths = _segments(np.cumsum(counts) - counts, counts, members)
        positions = by_component[chosen]
        unit = np.repeat(np.repeat(np.arange(len(units)), units), lengths)
        each = np.bincount(unit, minlength=len(units))
        return np.append(0, np.cumsum(each)), positions[np.lexsort((positions, unit))]

    def _alike(self, starts: Ints, positions: Ints) -> list[Ints]:
        """Return the units of equal footprint: sums of one random number per root agree."""
        numbers = np.random.default_rng(0).integers(0, 1 << 63, len(self.space.sizes), np.uint64)
        sums = np.append(np.uint64(0), np.cumsum(numbers[self.roots[positions]]))
        prints = sums[starts[1:]] - sums[starts[:-1]]  # modulo 2^64, as the sums are
        _, first, kind = np.unique(prints, return_index=True, return_inverse=True)
        units = np.split(np.argsort(kind, kind="stable"), np.cumsum(np.bincount(kind))[:-1])
        return [units[k] for k in np.argsort(first)] if len(first) else []

    def _group(self, units: Ints, starts: Ints, positions: Ints) -> Group | None:
        """Build the group of these units; None if they touch no weight, or would empty an axis."""
        start, end = starts[units[0]], starts[units[0] + 1]
        owned = positions[starts[units][:, None] + np.arange(end - start)]  # shape (U, k)
        roots = self.roots[owned[0]]  # of equal footprint and ascending: the same in every row
        index = {
            root: owned[:, roots == root] - self.solution.base[root]
            for root in np.unique(roots).tolist()
        }
        if any(owned_there.shape[1] == self.space.sizes[r] for r, owned_there in index.items()):
            return None  # every axis keeps a position: what goes all at once never goes
        members = [
            Member(tensor, number, self.roles.get((tensor, number), "carries"), owned_there)
            for root, owned_there in index.items()
            for tensor, number in (self.space.owners[a] for a in self.by_root[root])
            if tensor in self.graph.weights and number >= 0
        ]
        if not members:
            return None
        members.sort(key=lambda m: (_RANKS[m.role], self.place.get(m.tensor, 0)))
        wide = min((m.index.shape[1] for m in members if m.role != "carries"), default=1)
        widest = next((m for m in members if m.index.shape[1] == wide), members[0])
        readers = [
            (n, linear, size, r) for r in index for n, linear, size in self.readers.get(r, ())
        ]
        return Group(
            name=members[0].tensor,
            units=units,
            members=tuple(members),
            readers=tuple(
                Reader(linear, index[root], size)
                for _, linear, size, root in sorted(readers, key=lambda reader: reader[0])
            ),
            exact=self.renorms.isdisjoint(index),
            multiplicity=wide,
            width=self.graph.weights[widest.tensor].shape[widest.axis],
        )

    def _readers_by_root(self, records: list[Record]) -> dict[int, list[tuple[int, Linear, int]]]:
        """Map an axis root to the linear operators that sum over it: (node, operator, length)."""
        readers: dict[int, list[tuple[int, Linear, int]]] = {}
        for record in records:
            if record.linear is None or record.conditional:
                continue
            axis = self.space.find(record.linear.x, record.linear.x_axis)
            if axis is not None:
                entry = (record.index, record.linear, self.space.sizes[axis])
                readers.setdefault(self.space.root(axis), []).append(entry)
        return readers


def _roles(graph: Graph, records: list[Record]) -> dict[tuple[str, int], Role]:
    """Say for each weight axis whether linear operators write it or sum over it."""
    roles: dict[tuple[str, int], Role] = {}
    sources = weight_sources(graph, records)
    for record in records:
        node = graph.nodes[record.index]
        summed = {(c.slot, c.number) for c in record.contracts if not c.inside}
        for slot in {slot for slot, _ in summed}:
            weight, axes = sources.get(node.input[slot], ("", ()))
            for i, number in enumerate(axes):
                if (slot, i) in summed:
                    roles[weight, number] = "consumes"
                elif record.macs:
                    roles.setdefault((weight, number), "produces")
    return roles


def weight_sources(graph: Graph, records: list[Record]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Map weights, and what stands for one (dequantised, transposed), to it and to its axes in order."""
    sources = {name: (name, tuple(range(len(w.shape)))) for name, w in graph.weights.items()}
    for record in records:
        node = graph.nodes[record.index]
        if record.stands_for is not None and node.input[0] in sources:
            weight, axes = sources[node.input[0]]
            sources[node.output[0]] = weight, tuple(axes[i] for i in record.stands_for)
    return sources


def _segments(first: Ints, lengths: Ints, chosen: Ints) -> tuple[Ints, Ints]:
    """Return the entries of chosen segments one after the other, and the length of each segment."""
    lengths = lengths[chosen]
    shift = first[chosen] - (np.cumsum(lengths) - lengths)
    return np.arange(lengths.sum()) + np.repeat(shift, lengths), lengths
