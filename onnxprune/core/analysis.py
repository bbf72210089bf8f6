"""What the dependency analysis hands to everybody else: groups, their members, costs, the frozen rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .blocks import Block
from .declared import Linear, Record
from .errors import InternalError
from .faces import Face
from .graph import Array, Graph
from .positions import Axis, Space
from .quantised import parameters_each
from .shapes import Instance, Shapes
from .solver import Solution

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Role = Literal["produces", "consumes", "carries"]


@dataclasses.dataclass(frozen=True)
class Member:
    """A weight axis that a group owns positions of.

    Attributes:
        tensor: the weight's name.
        axis: which of its axes.
        role: "produces" (a linear operator writes these channels), "consumes" (it sums over them) or
            "carries" (per-channel values: bias, BatchNormalization, scale).
        index: int64, shape (U, k): the positions along the axis that unit u owns.
    """

    tensor: str
    axis: int
    role: Role
    index: Ints


@dataclasses.dataclass(frozen=True)
class Reader:
    """A linear operator that sums over positions of a group.

    Attributes:
        linear: the operator.
        index: int64, shape (U, k): positions along `linear.x_axis` that unit u owns.
        channels: length of that axis.
    """

    linear: Linear
    index: Ints
    channels: int


@dataclasses.dataclass(frozen=True)
class Group:
    """Units with the same footprint: they can be chosen among each other freely.

    Attributes:
        name: the first weight that produces the units, or the first member.
        units: global unit numbers, shape (U,).
        members: every weight axis they own.
        readers: the linear operators that read them.
        exact: removal equals silencing; else statistics (LayerNormalization, means) change.
        multiplicity: channels per unit on the axis that convolutions see.
        width: length of that axis (units of other groups on it included).
    """

    name: str
    units: Ints
    members: tuple[Member, ...]
    readers: tuple[Reader, ...]
    exact: bool
    multiplicity: int
    width: int

    def __len__(self) -> int:
        """Return the number of units."""
        return len(self.units)


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A weight axis that a linear operator writes but that cannot shrink, and why."""

    tensor: str
    axis: int
    size: int
    reason: str


@dataclasses.dataclass
class Analysis:
    """The whole result of running the rules over a graph."""

    graph: Graph
    shapes: Shapes
    space: Space
    solution: Solution
    records: list[Record]
    groups: list[Group]
    frozen: list[Frozen]
    faces: tuple[Face, ...] = ()

    @cached_property
    def unit_count(self) -> int:
        """Number of units in all groups and outside."""
        return len(self.solution.starts) - 1

    def mask(self, units: Ints, blocks: tuple[Block, ...] = ()) -> Mask:
        """Return the removal mask that is the union of these units (and of whole blocks)."""
        removed = np.zeros(len(self.solution.stays), np.bool_)
        starts, members = self.solution.starts, self.solution.members
        for unit in np.asarray(units, np.int64):
            removed[members[starts[unit] : starts[unit + 1]]] = True
        return Mask(self, removed[self.solution.component] if len(removed) else removed, blocks)

    @cached_property
    def sums(self) -> dict[str, str]:
        """Map the output of a linear operator to the sum of activations it flows into, if any.

        Per-channel steps in between (a bias, BatchNormalization) are passed through.
        """
        readers = self.graph.consumers()
        result: dict[str, str] = {}
        for linear in self.linears():
            name = linear.y
            while len(at := readers.get(name, [])) == 1 and not self.records[at[0]].conditional:
                record = self.records[at[0]]
                node = self.graph.nodes[record.index]
                others = [i for i in node.input if i != name]
                if record.adds and not any(i in self.graph.weights for i in others):
                    result[linear.y] = node.output[0]
                if not others or not all(i in self.graph.weights for i in others):
                    break
                name = node.output[0]
        return result

    def linears(self) -> list[Linear]:
        """Return the linear operators that always run, in topological order."""
        return [r.linear for r in self.records if r.linear is not None and not r.conditional]


@dataclasses.dataclass(frozen=True)
class Mask:
    """What is removed: positions (bool, shape (P,), over the solution's), and whole blocks."""

    analysis: Analysis
    removed: Bools
    blocks: tuple[Block, ...] = ()

    def kept(self, axis: Axis) -> Ints:
        """Return the kept positions along a whole axis, ascending."""
        return np.flatnonzero(~self.gone(axis))

    def gone(self, axis: Axis) -> Bools:
        """Return which positions of an axis (or of its chosen part) are removed."""
        ids = self.analysis.solution.positions(axis.id)
        if ids is None:
            return np.zeros(axis.size, np.bool_)
        gone = self.removed[ids]
        return gone if axis.index is None else gone[axis.index]

    def gone_at(self, tensor: str, number: int) -> Bools | None:
        """Return which positions of a tensor's axis are removed; None when none is."""
        axis = self.analysis.space.find(tensor, number)
        if axis is None:
            return None
        gone = self.gone(Axis(axis, self.analysis.space.sizes[axis]))
        return gone if gone.any() else None

    def emptied(self) -> list[tuple[str, int]]:
        """Return the tensor axes that would keep no position (a mask with any is not valid)."""
        space, solution = self.analysis.space, self.analysis.solution
        empty = {
            root
            for root, first in solution.base.items()
            if self.removed[first : first + space.sizes[root]].all()
        }
        if not empty:
            return []
        return [space.owners[a] for a in range(len(space.sizes)) if space.root(a) in empty]

    def check(self) -> None:
        """Refuse a mask that empties an axis or removes what stays.

        Raises:
            InternalError: naming the first such axis.
        """
        if emptied := self.emptied():
            tensor, number = emptied[0]
            raise InternalError(f"the mask leaves no position on axis {number} of '{tensor}'")
        if (self.removed & self.analysis.solution.stays[self.analysis.solution.component]).any():
            raise InternalError("the mask removes positions that stay")


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
        self.mac_nodes: list[int] = []
        terms: list[tuple[list[int], float]] = []
        for record in analysis.records:
            for macs in record.macs:
                terms.append(self._term(macs.axes, macs.times, instance))
                self.mac_nodes.append(record.index)
        graph, ones = analysis.graph, len(roots)
        weights = [(name, *self.tensor_term(name, w.shape)) for name, w in graph.weights.items()]
        each = parameters_each(graph, analysis.records)
        params = [(r, n * each.get(name, is_parameter(graph, name))) for name, r, n in weights]
        size = [(rows, times * _bytes_each(graph, name)) for name, rows, times in weights]
        size.append(([], _bytes_around(graph)))
        self._macs, self._params = _Products(terms, ones), _Products(params, ones)
        self._size = _Products(size, ones)
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

    def products(
        self, figure: Literal["macs", "params", "size"]
    ) -> tuple[Ints, NDArray[np.float64]]:
        """Return a figure as a sum of products of lengths.

        Returns:
            rows: int64, shape (T, d), into `lengths`; padded with its trailing 1.
            constants: float64, shape (T,), so that figure = sum_t constants[t] * prod lengths[rows[t]].
        """
        products = {"macs": self._macs, "params": self._params, "size": self._size}[figure]
        return products.rows, products.constants

    def lengths(self, removed: Bools | None = None) -> NDArray[np.float64]:
        """Return kept lengths per root (and a trailing 1), for a mask over positions."""
        if removed is None:
            return self.full.copy()
        count = len(self.roots)
        gone = np.bincount(self.row_of[removed], minlength=count)[:count]
        kept: NDArray[np.float64] = self.full - np.append(gone, 0)
        return kept

    def macs(self, lengths: NDArray[np.float64]) -> float:
        """Multiply-accumulates of one sample."""
        return self._macs.sum(lengths)

    def macs_by_node(self, lengths: NDArray[np.float64]) -> dict[int, float]:
        """Multiply-accumulates of one sample per node index."""
        result: dict[int, float] = {}
        for node, value in zip(self.mac_nodes, self._macs.each(lengths), strict=True):
            result[node] = result.get(node, 0.0) + float(value)
        return result

    def params(self, lengths: NDArray[np.float64]) -> float:
        """Number of parameters: elements of floating-point or quantised weights, ties once."""
        return self._params.sum(lengths)

    def size(self, lengths: NDArray[np.float64]) -> float:
        """Bytes of the file: weights as stored, and what is around them (a slight overestimate)."""
        return self._size.sum(lengths)


class _Products:
    """Sum of constant * product of chosen lengths, as one padded gather."""

    def __init__(self, terms: list[tuple[list[int], float]], ones: int) -> None:
        depth = max((len(rows) for rows, _ in terms), default=0)
        self.rows = np.full((len(terms), depth), ones, np.int64)
        for i, (rows, _) in enumerate(terms):
            self.rows[i, : len(rows)] = rows
        self.constants = np.array([c for _, c in terms], np.float64)

    def each(self, lengths: NDArray[np.float64]) -> NDArray[np.float64]:
        product: NDArray[np.float64] = lengths[self.rows].prod(axis=1) * self.constants
        return product

    def sum(self, lengths: NDArray[np.float64]) -> float:
        return float(self.each(lengths).sum())


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


def as_matrix(array: Array, axis: int) -> Array:
    """Return `array` with `axis` first and the rest flattened: shape (length, rest)."""
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
