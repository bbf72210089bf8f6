"""Axes, positions on them, and the five things a rule may declare.

A position is (tensor, axis, index). Most couplings in a network are between whole axes, so whole
axes are merged first (union-find over axes); single positions exist only for what is left. This
keeps the solver linear in the number of *different* channels, not of tensors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int32]
LONGEST = 1 << 20  # positions of an axis that may be told apart; no layer has as many channels


class CouplingError(ValueError):
    """A rule coupled axes of different lengths: the rule is wrong for this node (it goes opaque)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Axis:
    """A whole axis (`index` None) or chosen positions of it, in order."""

    id: int
    size: int
    index: Index | None = None

    def __len__(self) -> int:
        """Return the number of positions."""
        return self.size

    def at(self, index: Sequence[int] | slice | NDArray[np.integer]) -> Axis:
        """Return chosen positions of this axis, by number or slice."""
        whole = np.arange(self.size, dtype=np.int32) if self.index is None else self.index
        chosen = whole[index if isinstance(index, slice) else np.asarray(index, np.int64)]
        return Axis(self.id, len(chosen), chosen)


@dataclasses.dataclass
class Declarations:
    """What the rule of one node declared; committed as a whole, or dropped when the rule raises."""

    couples: list[tuple[Axis, Axis]] = dataclasses.field(default_factory=list)
    protects: list[tuple[Axis, str]] = dataclasses.field(default_factory=list)
    factors: list[tuple[Axis, tuple[Axis, ...]]] = dataclasses.field(default_factory=list)
    renorms: list[Axis] = dataclasses.field(default_factory=list)
    reserved: set[int] = dataclasses.field(default_factory=set)  # axes among `protects`: liftable

    def couple(self, a: Axis, b: Axis) -> None:
        """Declare that a[i] is removed iff b[i] is.

        Raises:
            CouplingError: if the lengths differ.
        """
        if a.size != b.size:
            raise CouplingError(f"{a.size} positions coupled with {b.size}")
        self.couples.append((a, b))

    def factor(self, flat: Axis, factors: Sequence[Axis]) -> None:
        """Declare flat p = (i, j, ...) row-major, removed iff i or j or ... is.

        Raises:
            CouplingError: if the product of the factors' lengths is not the flat length.
        """
        product = int(np.prod([f.size for f in factors], dtype=np.int64))
        if product != flat.size:
            raise CouplingError(f"{flat.size} positions factored as {[f.size for f in factors]}")
        if len(factors) == 1:
            self.couple(flat, factors[0])
        else:
            self.factors.append((flat, tuple(factors)))


class Space:
    """All axes of a graph instance and everything declared about them."""

    def __init__(self) -> None:
        """Create an empty space."""
        self.sizes: list[int] = []
        self.owners: list[tuple[str, int]] = []  # (tensor, axis); virtual axes: (label, -1)
        self._parent: list[int] = []
        self._of: dict[tuple[str, int], int] = {}
        self.couples: list[tuple[Axis, Axis]] = []
        self.factors: list[tuple[Axis, tuple[Axis, ...]]] = []
        self.protected: dict[int, str] = {}  # axis id -> reason (whole axes)
        self.protected_parts: list[tuple[Axis, str]] = []
        self.reserved: dict[int, str] = {}  # axis id -> reason: stays unless the user unlocks it
        self.renorms: set[int] = set()
        self._spoken: set[int] = set()

    def axis(self, tensor: str, number: int, size: int) -> Axis:
        """Return the axis `number` of `tensor`, created at first use."""
        key = (tensor, number)
        if key not in self._of:
            self._of[key] = self._new(key, size)
        return Axis(self._of[key], size)

    def virtual(self, label: str, size: int) -> Axis:
        """Return a new axis that no tensor has: groups, heads, gates."""
        return Axis(self._new((label, -1), size), size)

    def find(self, tensor: str, number: int) -> int | None:
        """Return the id of an axis, or None if no rule ever spoke of it."""
        return self._of.get((tensor, number))

    def _new(self, owner: tuple[str, int], size: int) -> int:
        self.sizes.append(size)
        self.owners.append(owner)
        self._parent.append(len(self._parent))
        if size <= 1:
            self.protected[len(self.sizes) - 1] = "an axis of length 1"
        elif size > LONGEST:
            self.protected[len(self.sizes) - 1] = f"an axis of {size} positions, too long to cut"
        return len(self.sizes) - 1

    def root(self, axis: int) -> int:
        """Return the representative of all axes coupled position by position with this one."""
        while self._parent[axis] != axis:
            self._parent[axis] = self._parent[self._parent[axis]]
            axis = self._parent[axis]
        return axis

    def commit(self, said: Declarations) -> None:
        """Take over what one rule declared."""
        for a, b in said.couples:
            if a.index is None and b.index is None:
                self._parent[self.root(b.id)] = self.root(a.id)
            else:
                self.couples.append((a, b))
        for axis, reason in said.protects:
            if axis.id in said.reserved:
                self.reserved.setdefault(axis.id, reason)
            elif axis.index is None:
                self.protected.setdefault(axis.id, reason)
            else:
                self.protected_parts.append((axis, reason))
        for flat, parts in said.factors:
            if flat.size > LONGEST:  # it stays, and so does every part
                for part in parts:
                    self.protected.setdefault(part.id, self.protected[flat.id])
            else:
                self.factors.append((flat, parts))
        self.renorms.update(axis.id for axis in said.renorms)
        self._spoken.update(axis.id for pair in said.couples for axis in pair)
        self._spoken.update(axis.id for flat, parts in said.factors for axis in (flat, *parts))
        self._spoken |= said.reserved

    def silent(self) -> list[int]:
        """Return the axes of tensors that rules looked at and coupled with nothing: they must stay."""
        return [
            a for a, (_, number) in enumerate(self.owners) if number >= 0 and a not in self._spoken
        ]
