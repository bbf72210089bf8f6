"""What a model costs: multiply-accumulates, parameters and bytes, exact on any mask."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .analysis import Analysis
from .blocks import Block
from .graph import Graph
from .positions import Axis
from .quantised import parameters_each
from .shapes import Instance

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Weighed = Literal["macs", "params", "size", "latency"]  # latency: where it was fitted
# rows of the lengths, a constant, and whose it is: a node, or a weight counted on behind the nodes
Term = tuple[list[int], float, int]
NOBODY = -1  # what stays whichever blocks go
_ALL = slice(None)


class CostModel:
    """MACs and parameters as sums of products of axis lengths, exact on any mask.

    Lengths are of axis roots. MACs are those of one sample: batch 1, other unknown dimensions as in
    the `instance` given (design: costs do not add, so they are computed on the final mask).
    """

    def __init__(self, analysis: Analysis, instance: Instance) -> None:
        """Prepare the products; `instance` gives the sizes at which MACs are counted."""
        self.analysis = analysis
        space = analysis.space
        roots = sorted(analysis.solution.base)
        self.roots = np.array(roots, np.int64)
        self._row = {root: i for i, root in enumerate(roots)}
        self.full = np.array([space.sizes[r] for r in roots] + [1], np.float64)
        terms: list[Term] = []
        for record in analysis.records:
            for macs in record.macs:
                rows, times = self._term(macs.axes, macs.times, instance)
                terms.append((rows, times, record.index))
        graph, ones = analysis.graph, len(roots)
        self._weight = {name: len(graph.nodes) + i for i, name in enumerate(graph.weights)}
        weights = [(name, *self.tensor_term(name, w.shape)) for name, w in graph.weights.items()]
        each = parameters_each(graph, analysis.records)
        params = [
            (rows, times * each.get(name, is_parameter(graph, name)), self._weight[name])
            for name, rows, times in weights
        ]
        size = [
            (rows, times * _bytes_each(graph, name), self._weight[name])
            for name, rows, times in weights
        ]
        size.append(([], _bytes_around(graph), NOBODY))
        named: dict[Weighed, list[Term]] = {"macs": terms, "params": params, "size": size}
        self._figures = {figure: Products.of(found, ones) for figure, found in named.items()}
        positions = len(analysis.solution.component)
        self.row_of = np.full(positions, len(roots), np.int64)
        for root, first in analysis.solution.base.items():
            self.row_of[first : first + space.sizes[root]] = self._row[root]

    def _term(
        self, axes: tuple[Axis, ...], times: int, instance: Instance
    ) -> tuple[list[int], float]:
        """A product over axes: its root rows, and the constant that makes it exact when unpruned."""
        space, rows, constant = self.analysis.space, [], float(times)
        for axis in axes:
            tensor, number = space.owners[axis.id]
            size = instance.shapes[tensor][number] if tensor in instance.shapes else axis.size
            row = self._row.get(space.root(axis.id))
            if row is None:
                constant *= size
            else:
                rows.append(row)
                constant *= size / axis.size
        return rows, constant

    def tensor_term(self, tensor: str, shape: Sequence[int]) -> tuple[list[int], float]:
        """Return the elements of a tensor of this (uncut) shape as rows of `lengths` and a constant."""
        space, rows, constant = self.analysis.space, [], 1.0
        for number, size in enumerate(shape):
            axis = space.find(tensor, number)
            row = None if axis is None else self._row.get(space.root(axis))
            if row is None:
                constant *= size
            else:
                rows.append(row)
        return rows, constant

    def with_latency(self, latency: Products) -> CostModel:
        """Return this model with a figure "latency" beside the others."""
        model = copy.copy(self)
        model._figures = {**self._figures, "latency": latency}
        return model

    def without(self, blocks: Sequence[Block]) -> CostModel:
        """Return what is left where whole blocks are left out, as a sum over the same lengths."""
        gone = {node for block in blocks for node in block.nodes}
        gone |= {self._weight[name] for block in blocks for name in block.weights}
        model = copy.copy(self)
        model._figures = {name: each.without(gone) for name, each in self._figures.items()}
        return model

    def figure(self, name: Weighed, lengths: Floats | None = None) -> float:
        """Return a figure at these lengths; None: uncut."""
        return self._figures[name].sum(self.full if lengths is None else lengths)

    def products(self, figure: Weighed) -> Products:
        """Return a figure as a sum of products of lengths."""
        return self._figures[figure]

    def lengths(self, removed: Bools | None = None) -> Floats:
        """Return kept lengths per root (and a trailing 1), for a mask over positions."""
        if removed is None:
            return self.full.copy()
        count = len(self.roots)
        gone = np.bincount(self.row_of[removed], minlength=count)[:count]
        kept: Floats = self.full - np.append(gone, 0)
        return kept

    def macs(self, lengths: Floats) -> float:
        """Multiply-accumulates of one sample."""
        return self._figures["macs"].sum(lengths)

    def macs_by_node(self, lengths: Floats) -> dict[int, float]:
        """Multiply-accumulates of one sample per node index."""
        result: dict[int, float] = {}
        macs = self._figures["macs"]
        for node, value in zip(macs.owners.tolist(), macs.each(lengths), strict=True):
            result[node] = result.get(node, 0.0) + float(value)
        return result

    def params(self, lengths: Floats) -> float:
        """Number of parameters: elements of floating-point or quantised weights, ties once."""
        return self._figures["params"].sum(lengths)

    def size(self, lengths: Floats) -> float:
        """Bytes of the file: weights as stored, and what is around them (a slight overestimate)."""
        return self._figures["size"].sum(lengths)


@dataclasses.dataclass(frozen=True)
class Products:
    """A figure as a sum of constants times products of chosen lengths.

    Attributes:
        rows: int64, shape (T, d), into the lengths; padded with their trailing 1.
        constants: float64, shape (T,).
        owners: int64, shape (T,): whose each product is.
        blocks: float64, shape (T,): lengths above 1 count in whole blocks of so many; None: as they are.
    """

    rows: Ints
    constants: Floats
    owners: Ints
    blocks: Floats | None = None

    @classmethod
    def of(cls, terms: Sequence[Term], ones: int, blocks: Floats | None = None) -> Products:
        """Pad the rows with the one that is always 1."""
        depth = max((len(rows) for rows, _, _ in terms), default=0)
        table = np.full((len(terms), depth), ones, np.int64)
        for i, (rows, _, _) in enumerate(terms):
            table[i, : len(rows)] = rows
        constants = np.array([constant for _, constant, _ in terms], np.float64)
        return cls(table, constants, np.array([owner for *_, owner in terms], np.int64), blocks)

    def without(self, gone: set[int]) -> Products:
        """Leave out the products of some owners."""
        stays = ~np.isin(self.owners, np.array(sorted(gone), np.int64))
        blocks = None if self.blocks is None else self.blocks[stays]
        return Products(self.rows[stays], self.constants[stays], self.owners[stays], blocks)

    def scaled(self, factor: float) -> Products:
        """Multiply with a number."""
        return dataclasses.replace(self, constants=factor * self.constants)

    def each(self, lengths: Floats, which: Ints | slice = _ALL) -> Floats:
        """Return products, all or some by number: float64, shape (T,)."""
        return self.multiplied(lengths[self.rows[which]], which)

    def multiplied(self, factors: Floats, which: Ints | slice = _ALL) -> Floats:
        """Return products of given factors, shape (T, d), in place of lengths."""
        if self.blocks is not None:
            factors = in_blocks(factors, self.blocks[which, None])
        product: Floats = factors.prod(axis=1) * self.constants[which]
        return product

    def sum(self, lengths: Floats) -> float:
        """Return the figure."""
        return float(self.each(lengths).sum())


def in_blocks(lengths: Floats, block: Floats | float) -> Floats:
    """Round lengths up to whole blocks; a length of 1 stays."""
    whole: Floats = np.where(lengths > 1, np.ceil(lengths / block) * block, lengths)
    return whole


def is_parameter(graph: Graph, tensor: str) -> bool:
    """Shape constants and indices are not parameters; weights of any numeric type above a scalar are."""
    weight = graph.weights[tensor]
    return len(weight.shape) > 0 and weight.proto.data_type not in _INDEX_TYPES


_INDEX_TYPES = {6, 7, 9, 8}  # INT32, INT64, BOOL, STRING


def _bytes_around(graph: Graph) -> float:
    """Bytes of a file besides the values of its weights: nodes, names and shapes."""
    nodes = sum(node.ByteSize() + 4 for node in graph.nodes)
    heads = sum(len(name) + 2 * len(weight.shape) + 14 for name, weight in graph.weights.items())
    return float(graph.shell.ByteSize() + nodes + heads)


def _bytes_each(graph: Graph, tensor: str) -> float:
    weight = graph.weights[tensor]
    count = int(np.prod(weight.shape, dtype=np.int64))
    return weight.nbytes / count if count else 0.0
