"""Units of components that take part in factorisations: closures of single removals.

The work for a unit is proportional to its size: what a removed component touches is looked up, and
how much of each slab is gone is counted, so that no grid is ever looked at as a whole.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Grid = tuple[Ints, list[Ints]]  # component ids of the cells, and of each factor's positions
_DEAR = np.int64(1) << 40  # more cells than any grid has


def close_units(count: int, stays: Bools, grids: list[Grid]) -> tuple[Ints, Ints]:
    """Return the units as CSR arrays (starts, members) over component ids.

    A component outside every grid is a unit by itself. Inside, a unit is the smallest valid mask
    that contains a seed. Seeds are the factor positions that are no cells themselves (whatever
    contains a cell contains one of its factors), then what no unit reaches: factor positions, cells.
    """
    involved = np.zeros(count, np.bool_)
    for cells, factors in grids:
        involved[cells.ravel()] = True
        for ids in factors:
            involved[ids] = True
    simple = np.flatnonzero(~involved & ~stays)
    closures = _Closures(count, stays, grids).all() if grids else []
    sizes = np.concatenate([np.ones(len(simple), np.int64), [len(c) for c in closures]]).astype(
        np.int64
    )
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    members = np.concatenate([simple, *closures]).astype(np.int64)
    return starts, members


@dataclasses.dataclass(frozen=True)
class _Table:
    """For each row a list of numbers: `values[starts[row] : starts[row + 1]]`."""

    starts: Ints
    values: Ints

    @classmethod
    def inverse(cls, rows: Ints, count: int) -> _Table:
        """Return for each of `count` rows the places in `rows` where it stands."""
        lengths = np.bincount(rows, minlength=count)
        return cls(np.append(0, np.cumsum(lengths)), np.argsort(rows, kind="stable"))

    def of(self, rows: Ints) -> Ints:
        """Return the lists of these rows one after the other."""
        first, lengths = self.starts[rows], self.starts[rows + 1] - self.starts[rows]
        ends = np.cumsum(lengths)
        places = np.arange(lengths.sum()) + np.repeat(first - ends + lengths, lengths)
        listed: Ints = self.values[places]
        return listed


class _Closures:
    """All grids side by side: their cells, and their slots, the positions of their factors.

    A cell lies in one slot of each factor; the cells of a slot are a slab of the grid. One slot more
    than there are fills up where grids have fewer factors than others; it is never full.
    """

    def __init__(self, count: int, stays: Bools, grids: list[Grid]) -> None:
        self.stays, self.count = stays, count
        self.cell = np.concatenate([cells.ravel() for cells, _ in grids])  # component of each cell
        positions = [ids for _, factors in grids for ids in factors]
        self.slot = np.append(np.concatenate(positions), -1)  # component of each slot
        none = len(self.slot) - 1
        rank = max(cells.ndim for cells, _ in grids)
        self.slots_of_cell = np.full((len(self.cell), rank), none, np.int64)
        first_cell = first_slot = 0
        for cells, factors in grids:
            block = self.slots_of_cell[first_cell : first_cell + cells.size]
            for axis, index in enumerate(np.unravel_index(np.arange(cells.size), cells.shape)):
                block[:, axis] = first_slot + index
                first_slot += len(factors[axis])
            first_cell += cells.size
        flat = self.slots_of_cell.ravel()
        slabs = _Table.inverse(flat, none + 1)
        self.cells_of_slot = _Table(slabs.starts, self.cell[slabs.values // rank])
        self.size = np.diff(slabs.starts)
        self.size[none] = -1
        self.cells_of = _Table.inverse(self.cell, count)
        self.slots_of = _Table.inverse(self.slot[:none], count)
        self.removed, self.counted = np.zeros(count, np.bool_), np.zeros(none + 1, np.int64)
        self.marked, self.place = np.zeros(none + 1, np.bool_), np.zeros(count, np.int64)

    def all(self) -> list[Ints]:
        """Close every seed."""
        cells, factors = np.unique(self.cell), np.unique(self.slot[:-1])
        free = np.setdiff1d(factors, cells, assume_unique=True)
        found: dict[bytes, Ints] = {}
        covered = np.zeros(self.count, np.bool_)
        for seeds in (free, factors, cells):
            for seed in seeds[~self.stays[seeds]]:
                if seeds is not free and covered[seed]:
                    continue
                unit = self._close(seed)
                if unit is not None:
                    covered[unit] = True
                    found.setdefault(unit.tobytes(), unit)
        return list(found.values())

    def _close(self, seed: np.int64) -> Ints | None:
        """Return the sorted components of the smallest valid mask with `seed`; None if some stay."""
        parts: list[Ints] = []
        new = np.array([seed])
        while len(new) and not self.stays[new].any():
            parts.append(new)
            new = self._forced(new)
            if not len(new):
                new = self._explained(np.concatenate(parts))
        unit = np.concatenate([*parts, new])
        self._forget(unit)
        return None if len(new) else np.sort(unit)

    def _forced(self, new: Ints) -> Ints:
        """Remove components; return which others must go with them.

        A slot that goes takes its slab along; a slab that is gone takes its slot along.
        """
        self.removed[new] = True
        slots, touched = self.slots_of.of(new), self.slots_of_cell[self.cells_of.of(new)].ravel()
        self.marked[slots] = True
        np.add.at(self.counted, touched, 1)
        full = touched[self.counted[touched] == self.size[touched]]
        forced = np.concatenate([self.cells_of_slot.of(slots), self.slot[full]])
        return self._once(forced[~self.removed[forced]])

    def _once(self, components: Ints) -> Ints:
        """Return components without repetition (no sorting, no hashing: most lists are short)."""
        places = np.arange(len(components))
        self.place[components] = places
        once: Ints = components[self.place[components] == places]
        return once

    def _explained(self, unit: Ints) -> Ints:
        """For the first removed cell without a reason, remove the factor that takes fewest along."""
        cells = self.cells_of.of(unit)
        loose = cells[~self.marked[self.slots_of_cell[cells]].any(axis=1)]
        if not len(loose):
            return loose
        slots = self.slots_of_cell[loose.min()]
        costs = self.size[slots] - self.counted[slots] + _DEAR * self.stays[self.slot[slots]]
        chosen: Ints = self.slot[slots[costs[self.size[slots] >= 0].argmin()]][None]
        return chosen

    def _forget(self, unit: Ints) -> None:
        """Take back what was noted about a unit."""
        self.removed[unit] = False
        self.marked[self.slots_of.of(unit)] = False
        self.counted[self.slots_of_cell[self.cells_of.of(unit)]] = 0
