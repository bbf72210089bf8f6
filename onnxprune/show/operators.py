"""Who feeds whom: every operator with a cost, the groups it sums over, writes and lets through."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..core.analysis import Analysis
from ..core.blocks import Block
from ..core.cost import CostModel
from ..core.declared import Record
from ..selection.ledger import owned_positions
from ..structure.sites import made_by, module

Ints = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Owned:
    """Which positions, and on which axis roots, each group owns.

    Attributes:
        cells: per group int64, shape (U, k): the positions each unit owns.
        roots: per group, the roots of the axes they lie on.
    """

    cells: list[Ints]
    roots: list[frozenset[int]]

    @classmethod
    def of(cls, cost: CostModel) -> Owned:
        """Look up what every group of an analysis owns."""
        cells = owned_positions(cost)
        first = (np.unique(cost.row_of[c[0]]) for c in cells)
        return cls(cells, [frozenset(cost.roots[rows].tolist()) for rows in first])


@dataclasses.dataclass(frozen=True)
class OperatorView:
    """An operator that multiplies and adds.

    Attributes:
        name: of the node, or of what it makes.
        op: its type.
        module: the PyTorch module it came from, where the exporter noted it.
        weight: what it multiplies with; None if all operands are computed.
        macs: multiply-accumulates of one run.
        reads: numbers of the groups that it sums over.
        writes: numbers of the groups that begin here.
        passes: numbers of the groups that it lets through.
        stays: why what it writes stays; None if something of it can go.
        blocks: names of the blocks that it lies in, the largest first.
    """

    name: str
    op: str
    module: str | None
    weight: str | None
    macs: float
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    passes: tuple[int, ...]
    stays: str | None
    blocks: tuple[str, ...]


def view_operators(
    analysis: Analysis, cost: CostModel, owned: Owned, blocks: Sequence[Block] = ()
) -> tuple[OperatorView, ...]:
    """Describe every operator with a cost, in the order in which they run."""
    return _Operators(analysis, cost, owned, blocks).views()


class _Operators:
    def __init__(
        self, analysis: Analysis, cost: CostModel, owned: Owned, blocks: Sequence[Block]
    ) -> None:
        self.analysis = analysis
        self.macs = cost.macs_by_node(cost.full)
        self.groups: dict[int, list[int]] = {}
        for number, roots in enumerate(owned.roots):
            for root in roots:
                self.groups.setdefault(root, []).append(number)
        origin = analysis.graph.origin
        self.stays = {(origin.get(f.tensor, f.tensor), f.axis): f.reason for f in analysis.frozen}
        self.blocks: dict[int, list[str]] = {}
        for block in sorted(blocks, key=lambda b: -len(b.nodes)):
            for node in block.nodes:
                self.blocks.setdefault(node, []).append(block.name)

    def views(self) -> tuple[OperatorView, ...]:
        return tuple(self._view(record) for record in self.analysis.records if record.macs)

    def _view(self, record: Record) -> OperatorView:
        graph, space, linear = self.analysis.graph, self.analysis.space, record.linear
        node = graph.nodes[record.index]
        summed = {(c.slot, c.number) for c in record.contracts}
        reads = self._on(axis.id for axis in (c.axis for c in record.contracts))
        inputs = [name for name in node.input if name and name not in graph.weights]
        through = self._of(inputs, {(node.input[slot], number) for slot, number in summed})
        made = self._of(node.output, set())
        weight = linear.weight if linear is not None else None
        if weight is None:
            weight = next((name for name in node.input if name in graph.weights), None)
        weight = None if weight is None else graph.origin.get(weight, weight)
        written = None if linear is None else space.find(linear.weight, linear.weight_out)
        begins = self._on([written]) if written is not None else made - through
        if linear is not None and linear.groups > 1:  # each channel is read to write itself
            own = reads & begins
            reads, begins, through = reads - own, begins - own, through | own
        return OperatorView(
            name=node.name or made_by(node),
            op=node.op_type,
            module=module(node),
            weight=weight,
            macs=self.macs.get(record.index, 0.0),
            reads=tuple(sorted(reads)),
            writes=tuple(sorted(begins)),
            passes=tuple(sorted(through & made - reads - begins)),
            stays=None if linear is None else self.stays.get((weight or "", linear.weight_out)),
            blocks=tuple(self.blocks.get(record.index, ())),
        )

    def _on(self, axes: Iterable[int]) -> set[int]:
        """Return the groups that own positions on some axes."""
        space = self.analysis.space
        return {group for axis in axes for group in self.groups.get(space.root(axis), ())}

    def _of(self, names: Iterable[str], without: set[tuple[str, int]]) -> set[int]:
        """Return the groups that own positions of tensors, but for some of their axes."""
        shapes, space = self.analysis.shapes.a, self.analysis.space
        places = ((n, i) for n in names for i in range(len(shapes.get(n, ()))))
        axes = (space.find(*place) for place in places if place not in without)
        return self._on(axis for axis in axes if axis is not None)
