"""What the dependency analysis hands to everybody else: groups, their members, costs, the frozen rest."""

from __future__ import annotations

import dataclasses
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
from .shapes import Shapes
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


def as_matrix(array: Array, axis: int) -> Array:
    """Return `array` with `axis` first and the rest flattened: shape (length, rest)."""
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
