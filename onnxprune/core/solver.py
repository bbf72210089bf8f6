"""From declarations to units: the minimal sets of positions that can be removed together.

Constraints are equalities (couple), negations (protect) and one OR per factored axis, so the valid
removal masks are closed under union; units are the masks that are not a union of smaller ones.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .closure import close_units
from .positions import Axis, Space

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
_NEVER = np.iinfo(np.int32).max


@dataclasses.dataclass
class Factor:
    """A flat grid of positions (row-major over its factors) and the positions of each factor."""

    cells: Ints  # shape (n1, ..., nk): position ids
    factors: list[Ints]  # shapes (n1,), ..., (nk,)


@dataclasses.dataclass(frozen=True)
class Solution:
    """Positions, their components, and units as sets of components.

    Attributes:
        base: first position of each axis root; -1 when the whole axis stays.
        component: shape (P,), component of each position.
        stays: shape (C,), components that cannot be removed.
        reason: shape (C,), index into `reasons` for components that stay.
        units: component ids per unit, in CSR form (`starts`, `members`).
    """

    space: Space
    base: dict[int, int]
    component: Ints
    stays: Bools
    reason: NDArray[np.int32]
    reasons: list[str]
    starts: Ints
    members: Ints

    def positions(self, axis: int) -> Ints | None:
        """Return the position ids along an axis, or None when the whole axis stays."""
        root = self.space.root(axis)
        first = self.base.get(root, -1)
        return None if first < 0 else np.arange(first, first + self.space.sizes[root])


def solve(space: Space) -> Solution:
    """Find components, what stays and why, and the units of `space`."""
    return _Solver(space).run()


class _Solver:
    def __init__(self, space: Space) -> None:
        self.space = space
        self.reasons: list[str] = []
        self._reason_ids: dict[str, int] = {}
        self.whole: dict[int, int] = {}  # root -> reason id, for axes that stay entirely
        for axis in sorted(space.protected):
            self.whole.setdefault(space.root(axis), self._reason(space.protected[axis]))
        self.base: dict[int, int] = {}
        total = 0
        for axis in range(len(space.sizes)):
            root = space.root(axis)
            if root in self.whole or root in self.base:
                continue
            self.base[root] = total
            total += space.sizes[root]
        self.total = total
        # per position: smallest reason id that protects it, or _NEVER
        self.guard = np.full(total, _NEVER, np.int32)
        self.pairs: list[tuple[Ints, Ints]] = []
        self.factors: list[Factor] = []
        self.component = np.arange(total)

    def _reason(self, text: str) -> int:
        return self._reason_ids.setdefault(text, len(self._reason_ids))

    def _ids(self, axis: Axis) -> tuple[Ints | None, int]:
        """Positions of an axis, or (None, reason) when its root stays entirely."""
        root = self.space.root(axis.id)
        if root in self.whole:
            return None, self.whole[root]
        first = self.base[root]
        if axis.index is None:
            return np.arange(first, first + axis.size), _NEVER
        return first + axis.index.astype(np.int64), _NEVER

    def _protect(self, ids: Ints, reason: int) -> None:
        self.guard[ids] = np.minimum(self.guard[ids], reason)

    def run(self) -> Solution:
        for axis, text in self.space.protected_parts:
            ids, _ = self._ids(axis)
            if ids is not None:
                self._protect(ids, self._reason(text))
        for a, b in self.space.couples:
            self._pair(a, b)
        for flat, parts in self.space.factors:
            self._add_factor(flat, parts)
        self._settle()
        stays = self.guard < _NEVER
        count = int(self.component.max(initial=-1)) + 1
        guard = np.full(count, _NEVER, np.int32)
        np.minimum.at(guard, self.component, self.guard)
        stays = guard < _NEVER
        live = [
            (self.component[f.cells], [self.component[g] for g in f.factors]) for f in self.factors
        ]
        starts, members = close_units(count, stays, live)
        self.reasons = list(self._reason_ids)
        return Solution(
            self.space, self.base, self.component, stays, guard, self.reasons, starts, members
        )

    def _pair(self, a: Axis, b: Axis) -> None:
        (left, why_left), (right, why_right) = self._ids(a), self._ids(b)
        if left is not None and right is not None:
            self.pairs.append((left, right))
        elif left is not None:
            self._protect(left, why_right)
        elif right is not None:
            self._protect(right, why_left)

    def _add_factor(self, flat: Axis, parts: tuple[Axis, ...]) -> None:
        """Give fully protected axes stand-in positions, so that one code path serves all."""
        shape = tuple(p.size for p in parts)
        cells = self._or_stand_in(flat).reshape(shape)
        self.factors.append(Factor(cells, [self._or_stand_in(p) for p in parts]))

    def _or_stand_in(self, axis: Axis) -> Ints:
        ids, why = self._ids(axis)
        if ids is None:
            ids = np.arange(self.total, self.total + axis.size)
            self.total += axis.size
            self.guard = np.concatenate([self.guard, np.full(axis.size, why, np.int32)])
        return ids

    def _settle(self) -> None:
        """Alternate components and factor propagation until nothing changes."""
        while True:
            self._connect()
            if not self._propagate():
                return

    def _connect(self) -> None:
        """Recompute components and spread protection over each."""
        if self.pairs:
            left = np.concatenate([p[0].ravel() for p in self.pairs])
            right = np.concatenate([p[1].ravel() for p in self.pairs])
            self.pairs = [(left, right)]
            links = coo_array(
                (np.ones(len(left), np.bool_), (left, right)), shape=(self.total, self.total)
            )
            count, labels = connected_components(links, directed=False)
            self.component = labels.astype(np.int64)
        else:
            count, self.component = self.total, np.arange(self.total)
        lowest = np.full(count, _NEVER, np.int32)
        np.minimum.at(lowest, self.component, self.guard)
        self.guard = lowest[self.component]

    def _propagate(self) -> bool:
        """One sweep over the factors; True when protection or couplings were added."""
        changed = False
        kept: list[Factor] = []
        seen: dict[tuple[bytes, tuple[int, ...]], Factor] = {}
        for factor in self.factors:
            changed |= self._spread(factor)
            smaller, coupled = self._reduce(factor)
            changed |= coupled
            if smaller is None:
                continue
            # two factorisations of one grid with the same lengths have the same factors
            key = (self.component[smaller.cells].tobytes(), smaller.cells.shape)
            if key in seen:
                changed |= self._couple_factors(seen[key], smaller)
            else:
                seen[key] = smaller
            kept.append(smaller)
        self.factors = kept
        return changed

    def _couple_factors(self, first: Factor, second: Factor) -> bool:
        changed = False
        for a, b in zip(first.factors, second.factors, strict=True):
            if (self.component[a] != self.component[b]).any():
                self.pairs.append((a, b))
                changed = True
        return changed

    def _spread(self, factor: Factor) -> bool:
        """A cell that stays keeps its factors; a cell whose factors all stay, stays."""
        changed = False
        cells = self.guard[factor.cells]
        rank = cells.ndim
        for axis, ids in enumerate(factor.factors):
            others = tuple(i for i in range(rank) if i != axis)
            need = cells.min(axis=others)
            if (need < self.guard[ids]).any() and (
                (self.guard[ids] == _NEVER) & (need < _NEVER)
            ).any():
                fresh = self.guard[ids] == _NEVER
                self.guard[ids[fresh]] = need[fresh]
                changed |= bool((need[fresh] < _NEVER).any())
        worst = np.zeros(cells.shape, np.int32)
        for axis, ids in enumerate(factor.factors):
            view = [1] * rank
            view[axis] = len(ids)
            worst = np.maximum(worst, self.guard[ids].reshape(view))
        fresh_cells = (cells == _NEVER) & (worst < _NEVER)
        if fresh_cells.any():
            self.guard[factor.cells[fresh_cells]] = worst[fresh_cells]
            changed = True
        return changed

    def _reduce(self, factor: Factor) -> tuple[Factor | None, bool]:
        """Drop factors that stay entirely; with one left, OR is equality."""
        live = [i for i, ids in enumerate(factor.factors) if (self.guard[ids] == _NEVER).any()]
        rank = factor.cells.ndim
        if len(live) == rank:
            return factor, False
        order = [*live, *(i for i in range(rank) if i not in live)]
        shape = [factor.cells.shape[i] for i in live]
        cells = factor.cells.transpose(order).reshape(*shape, -1)
        if cells.shape[-1] > 1:
            self.pairs.append(
                (np.repeat(cells[..., :1], cells.shape[-1] - 1, -1).ravel(), cells[..., 1:].ravel())
            )
        first = cells[..., 0]
        if not live:
            return None, cells.shape[-1] > 1
        if len(live) == 1:
            self.pairs.append((first.ravel(), factor.factors[live[0]]))
            return None, True
        return Factor(first, [factor.factors[i] for i in live]), True
