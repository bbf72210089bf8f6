"""Finds the blocks that can be left out: residual regions with a single exit, on any graph.

`y = x + b(x)`, x and y of equal shape and type, an operator with weights between, and nothing of the
region read outside it except y. Side entries are allowed (masks, tables of positions, encoder states)
as long as they do not depend on x: x need not dominate y, or half of a transformer would be lost. The
sum may be a tree, x + a(x) + b(x). Post-norm networks add first and normalise then: there
`y = norm(x + b(x))` is a block too, as without its sum a norm would follow a norm.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush

import numpy as np

from ..core.analysis import Analysis
from ..core.blocks import Block, Kind
from ..core.cost import CostModel, is_parameter
from ..core.declared import Record
from .flow import Flow
from .layers import chains, named, nested, period

_STATISTICS = {
    "mean",
    "layer",
    "rms",
    "group",
}  # kinds of renormalisation that norms are written with
_NORM_NODES = 16  # a LayerNormalization written out has nine, with copies and casts some more
Added = tuple[tuple[int, int], ...]


def find_blocks(analysis: Analysis, cost: CostModel | None = None) -> list[Block]:
    """Return every removable block, each before the blocks that lie in it.

    Where consecutive blocks repeat with a period (attention, feed-forward, attention, ...), each
    period is a block as well, with the others as its `parts`: a whole layer.

    Args:
        analysis: of the model.
        cost: counts multiply-accumulates.
    """
    return _Finder(analysis, cost).run()


class _Finder:
    def __init__(self, analysis: Analysis, cost: CostModel | None) -> None:
        self.analysis, self.graph, self.records = analysis, analysis.graph, analysis.records
        self.flow = Flow(analysis)
        self.macs = None if cost is None else cost.macs_by_node(cost.full)

    def run(self) -> list[Block]:
        residuals = [b for record in self.records if record.adds for b in self._residual(record)]
        normal = self._post_norms(residuals)
        blocks = [*residuals, *normal, *self._layers(residuals), *self._layers(normal)]
        blocks.sort(key=lambda b: (self.flow.maker.get(b.x, -1), -len(b.nodes)))
        weighty = {i for b in blocks for i in b.nodes if self._has_weights(i)}
        return nested(named(blocks, self.graph, weighty))

    # -- one block ------------------------------------------------------------------------------
    def _block(self, kind: Kind, x: str, y: str, added: Added) -> Block | None:
        """Return the block from x to y, if it is one."""
        flow = self.flow
        start, end = flow.maker.get(x, -1), flow.maker[y]
        if x not in flow.dynamic or start >= end or not self._alike(x, y):
            return None
        if not all(self._may_follow(node, slot, x) for node, slot in added):
            return None  # found without a walk: most sums of a stream and a table end here
        inside = flow.region(x, y, start)
        values = flow.depends(x, inside)
        if not (
            all(self._is_branch(node, slot, x, values) for node, slot in added)
            and any(self._has_weights(i) for i in inside if values.intersection(flow.reads[i]))
            and not flow.reaches(x, flow.entries(inside) - {x}, inside)
        ):
            return None
        inside = flow.region(x, y, -1)  # with all that only serves the side entries
        weights = self._weights(inside)
        return Block(
            name=y,
            kind=kind,
            x=x,
            y=y,
            nodes=tuple(sorted(inside)),
            added=added,
            sides=tuple(sorted(flow.entries(inside) - {x})),
            weights=tuple(weights),
            params=float(sum(self._size(name) for name in weights)),
            macs=None if self.macs is None else sum(self.macs.get(i, 0.0) for i in inside),
        )

    def _alike(self, a: str, b: str) -> bool:
        """Tell whether two tensors have the same shape, in both instances, and type."""
        shapes = self.analysis.shapes
        return (
            shapes.known(a)
            and shapes.known(b)
            and (shapes.a[a], shapes.b[a]) == (shapes.a[b], shapes.b[b])
            and shapes.dtypes[a] == shapes.dtypes[b]
        )

    def _may_follow(self, node: int, slot: int, x: str) -> bool:
        """Tell whether the earliest term of what is added to x follows from x (or is a constant)."""
        name = self.graph.nodes[node].input[slot]
        first = self.flow.first_term.get(name, name)
        return name not in self.flow.dynamic or (first != x and self.flow.follows(first, x))

    def _is_branch(self, node: int, slot: int, x: str, values: set[str]) -> bool:
        """Tell whether every term of what is added to x follows from x (or is a constant).

        A sum may hold a second stream, as in `table + stream(table)`: without it little would be left.
        """
        name = self.graph.nodes[node].input[slot]
        waiting, seen = [name], {name}
        while waiting:
            term = waiting.pop()
            maker = self.flow.maker.get(term)
            if term in self.flow.dynamic and (term == x or term not in values):
                return False
            if maker is not None and self.records[maker].adds:
                waiting += [t for t in self.flow.reads[maker] if t not in seen]
                seen.update(self.flow.reads[maker])
        return name not in self.flow.dynamic or self._alike(name, x)

    def _has_weights(self, index: int) -> bool:
        """Tell whether a node multiplies with a constant (in whatever type it is stored)."""
        constant = any(name not in self.flow.dynamic for name in self.flow.reads[index])
        return bool(self.records[index].macs) and constant

    def _weights(self, inside: set[int]) -> list[str]:
        """Return the weights that only a region reads."""
        names = dict.fromkeys(n for i in sorted(inside) for n in self.graph.nodes[i].input)
        weights, readers, bound = self.graph.weights, self.flow.readers, self.flow.bound
        return [
            n for n in names if n in weights and n not in bound and inside.issuperset(readers[n])
        ]

    def _size(self, name: str) -> int:
        shape = self.graph.weights[name].shape
        return int(np.prod(shape, dtype=np.int64)) * is_parameter(self.graph, name)

    # -- y = x + b(x) ---------------------------------------------------------------------------
    def _residual(self, record: Record) -> Iterator[Block]:
        """Find the block that ends in a sum: x is an operand, or one of a sum that only goes there."""
        y = self.graph.nodes[record.index].output[0]
        waiting: deque[tuple[int, Added]] = deque([(record.index, ())])
        while waiting:
            index, above = waiting.popleft()
            operands = self.graph.nodes[index].input
            for slot, x in enumerate(operands):
                added = above + tuple((index, i) for i in range(len(operands)) if i != slot)
                if (block := self._block("residual", x, y, added)) is not None:
                    yield block
                    return
                inner = self.flow.maker.get(x)
                if inner is not None and self.records[inner].adds and self.flow.only_to(x, index):
                    waiting.append((inner, added))

    # -- y = norm(x + b(x)) ---------------------------------------------------------------------
    def _post_norms(self, residuals: Sequence[Block]) -> list[Block]:
        """Find the blocks of post-norm networks, in which what is normalised is the stream.

        That is so where x is itself normalised, or y is added to. The last normalisation of a
        pre-norm network is no block: what follows needs it.
        """
        spans = [(b.x, y) for b in residuals if (y := self._normalised(b.y)) is not None]
        spans += [span for record in self.records for span in self._fused(record)]
        found = [b for x, y in spans if (b := self._block("post-norm", x, y, ())) is not None]
        streams = {b.x for b in [*residuals, *found]}
        normal = {self.graph.nodes[r.index].output[0] for r in self.records if _is_statistic(r)}
        normal.update(b.y for b in found)
        return [b for b in found if b.x in normal or b.y in streams]

    def _fused(self, record: Record) -> Iterator[tuple[str, str]]:
        """Yield the operands of a normalisation that adds them first, each with its output."""
        node = self.graph.nodes[record.index]
        for renorm in record.renorms:
            slots = (renorm.slot, *renorm.added) if renorm.added else ()
            yield from ((node.input[s], node.output[0]) for s in slots if s < len(node.input))

    def _normalised(self, total: str) -> str | None:
        """Return the normalisation of a sum that nobody else reads: one node, or written out."""
        inside: set[int] = set()
        made, found, normal = {total}, None, False
        waiting = [*self.flow.readers.get(total, ())]
        heapify(waiting)
        while waiting and len(inside) < _NORM_NODES:
            index = heappop(waiting)
            record, read = (
                self.records[index],
                self.flow.dynamic.intersection(self.flow.reads[index]),
            )
            if index in inside or record.macs or not made.issuperset(read):
                continue
            inside.add(index)
            made.update(self.flow.makes[index])
            for name in self.flow.makes[index]:
                for reader in self.flow.readers.get(name, ()):
                    heappush(waiting, reader)
            statistic = _is_statistic(record)
            normal = normal or statistic
            scaled = statistic or len(self.flow.reads[index]) > 1
            ends = [name for name in made if self._is_open(name, inside)]
            is_last = len(ends) == 1 and ends[0] in self.flow.makes[index]
            if normal and scaled and is_last and self._alike(ends[0], total):
                found = ends[0]
        return found

    def _is_open(self, name: str, inside: set[int]) -> bool:
        readers = self.flow.readers.get(name, ())
        return name in self.flow.bound or not inside.issuperset(readers)

    # -- several in a row -----------------------------------------------------------------------
    def _layers(self, blocks: Sequence[Block]) -> Iterator[Block]:
        """Join what repeats in every chain of consecutive blocks; counted from its end.

        The first block of a network is missing more often than the last: it makes what all share.
        """
        for chain in chains(blocks, self.flow.origin):
            length = period([self._signature(block) for block in chain])
            for first in range(len(chain) % length, len(chain), length) if length > 1 else ():
                parts = chain[first : first + length]
                added = tuple(place for part in parts for place in part.added)
                layer = self._block(parts[0].kind, parts[0].x, parts[-1].y, added)
                if layer is not None:
                    yield dataclasses.replace(layer, parts=tuple(part.y for part in parts))

    def _signature(self, block: Block) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the weights that a block multiplies with."""
        linears = [self.records[i].linear for i in block.nodes]
        return tuple(sorted(self.graph.weights[m.weight].shape for m in linears if m is not None))


def _is_statistic(record: Record) -> bool:
    return any(renorm.kind in _STATISTICS for renorm in record.renorms)
