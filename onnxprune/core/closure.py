"""Units of components that take part in factorisations: closures of single removals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Grid = tuple[Ints, list[Ints]]  # component ids of the cells, and of each factor's positions


def close_units(count: int, stays: Bools, grids: list[Grid]) -> tuple[Ints, Ints]:
    """Return the units as CSR arrays (starts, members) over component ids.

    A component outside every grid is a unit by itself. Inside, a unit is the smallest valid mask
    that contains a seed; factor positions are seeds first, then the cells no unit reaches.
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


class _Closures:
    def __init__(self, count: int, stays: Bools, grids: list[Grid]) -> None:
        self.stays, self.grids = stays, grids
        self.touching: dict[int, list[int]] = {}
        for number, (cells, factors) in enumerate(grids):
            for component in np.unique(np.concatenate([cells.ravel(), *factors])):
                self.touching.setdefault(int(component), []).append(number)
        self.removed = np.zeros(count, np.bool_)

    def all(self) -> list[Ints]:
        """Close every factor position, then every cell that no unit reaches."""
        factor_seeds = np.unique(np.concatenate([np.concatenate(f) for _, f in self.grids]))
        cell_seeds = np.unique(np.concatenate([c.ravel() for c, _ in self.grids]))
        found: dict[bytes, Ints] = {}
        covered = np.zeros(len(self.removed), np.bool_)
        for seeds in (factor_seeds, cell_seeds):
            for seed in seeds[~self.stays[seeds]]:
                if seeds is cell_seeds and covered[seed]:
                    continue
                unit = self._close(int(seed))
                if unit is not None:
                    covered[unit] = True
                    found.setdefault(unit.tobytes(), unit)
        return list(found.values())

    def _close(self, seed: int) -> Ints | None:
        """Return the sorted components of the smallest valid mask with `seed`; None if some stay."""
        removed = self.removed
        removed[:] = False
        queue, queued = [seed], {seed}
        removed[seed] = True
        pending = dict.fromkeys(self.touching.get(seed, []))
        while pending:
            number = next(iter(pending))
            del pending[number]
            for component in self._step(*self.grids[number]):
                removed[component] = True
                if self.stays[component]:
                    return None
                if component not in queued:
                    queued.add(component)
                    queue.append(component)
                    pending.update(dict.fromkeys(self.touching.get(component, [])))
                    pending[number] = None
        return np.array(sorted(queue), np.int64)

    def _step(self, cells: Ints, factors: list[Ints]) -> list[int]:
        """Return components that one grid forces to be removed too."""
        gone = self.removed[cells]
        marks = [self.removed[ids] for ids in factors]
        need = np.zeros(cells.shape, np.bool_)
        for axis, mark in enumerate(marks):
            view = [1] * cells.ndim
            view[axis] = len(mark)
            need |= mark.reshape(view)
        forced = set(cells[need & ~gone].tolist())
        for axis, (ids, mark) in enumerate(zip(factors, marks, strict=True)):
            others = tuple(i for i in range(cells.ndim) if i != axis)
            forced.update(ids[gone.all(axis=others) & ~mark].tolist())
        if not forced and (gone & ~need).any():
            forced.update(self._explain(factors, gone & ~need, gone))
        return sorted(forced)

    def _explain(self, factors: list[Ints], loose: Bools, gone: Bools) -> list[int]:
        """Pick, for the first removed cell without a reason, the factor with fewest new cells."""
        spot = tuple(int(i[0]) for i in np.nonzero(loose))
        costs = []
        for axis, ids in enumerate(factors):
            row = np.take(gone, spot[axis], axis=axis)
            costs.append((int((~row).sum()) + 10**9 * int(self.stays[ids[spot[axis]]]), axis))
        axis = min(costs)[1]
        return [int(factors[axis][spot[axis]])]
