"""The exact cost of a growing removal, and what each group's next step would save.

Costs do not add: a convolution costs a product of lengths. And units of different groups may share
positions (group units and offset units of a grouped convolution), so each position counts how many
removed units cover it; a length shrinks only with a position that becomes covered.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

from ..core.cost import NOBODY, CostModel, Products
from .budget import Figure
from .widths import listed

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Ledger:
    """How far each group went along its allowed widths, and the lengths that follow.

    Attributes:
        widths: per group, the unit counts it may keep, descending, the full count first.
        level: int64, shape (G,): index into each group's widths.
        given: int64, shape (G,): levels above which no group comes back: what the user listed goes.
        lengths: float64, shape (R + 1 + G,): kept positions per axis root, 1, kept units per group.
        cover: int64, shape (P,): how many removed units own each position.
        products: the figure, as their sum.
    """

    def __init__(
        self, cost: CostModel, figure: Figure, order: Sequence[Ints], widths: Sequence[Ints]
    ) -> None:
        """Start with nothing removed; `order` lists each group's units, first to go first."""
        groups = cost.analysis.groups
        self.given = np.zeros(len(groups), np.int64)
        self.widths, self.level = list(widths), np.zeros(len(groups), np.int64)
        self.roots = len(cost.roots)
        self._full = np.concatenate([cost.full, [len(g) for g in groups]])
        self.lengths = self._full.copy()
        self.row_of = cost.row_of
        self.cover = np.zeros(len(cost.row_of), np.int64)
        positions = _positions_of_components(cost)
        self.cells = [
            _cells(cost, positions, g.units[o]) for g, o in zip(groups, order, strict=True)
        ]
        goes = listed(cost.analysis)
        self._listed = np.array([going is not None for going in goes], np.bool_)
        self.products = self._units() if figure == "units" else cost.products(figure)

    def _units(self) -> Products:
        """Count the units of the groups that may lose any, as one product per group."""
        rows = self.roots + 1 + np.arange(len(self.widths), dtype=np.int64)
        open_groups = np.array([len(w) > 1 for w in self.widths], np.bool_) & ~self._listed
        owners = np.full(len(rows), NOBODY)
        return Products(rows[:, None], open_groups.astype(np.float64), owners)

    def begin(self) -> None:
        """Remove what the user listed; from here on it does not come back."""
        self.given = np.where(self._listed, self.floors(), 0)
        if self.given.any():
            self.set(self.level)

    def floors(self) -> Ints:
        """Return the levels at which every group is as narrow as it may be."""
        return np.array([len(w) - 1 for w in self.widths], np.int64)

    def kept(self) -> tuple[int, ...]:
        """Return the units kept per group."""
        return tuple(int(w[i]) for w, i in zip(self.widths, self.level, strict=True))

    def figure(self) -> float:
        """Return the figure of what remains."""
        return self.products.sum(self.lengths)

    def can(self, group: int, *, back: bool = False) -> bool:
        """Tell whether a group has a next step, or one to give back."""
        return bool(
            self.level[group] > self.given[group]
            if back
            else self.level[group] < len(self.widths[group]) - 1
        )

    def units(self, group: int, *, back: bool = False) -> slice:
        """Return which of a group's units, in order of removal, make its next or its last step."""
        level, widths = int(self.level[group]) - back, self.widths[group]
        return slice(int(widths[0] - widths[level]), int(widths[0] - widths[level + 1]))

    def change(self, group: int, *, back: bool = False) -> Floats:
        """Return how much shorter (back: longer) the lengths become with that step."""
        change = np.zeros(len(self.lengths))
        if self.can(group, back=back):
            chosen = self.units(group, back=back)
            ids, times = np.unique(self.cells[group][chosen], return_counts=True)
            turned = ids[self.cover[ids] == (times if back else 0)]
            change[: self.roots] = np.bincount(self.row_of[turned], minlength=self.roots)
            change[self.roots + 1 + group] = chosen.stop - chosen.start
        return change

    def move(self, group: int, change: Floats, *, back: bool = False) -> None:
        """Take a group's next step, or give back its last one; `change` is that of `change()`."""
        np.add.at(
            self.cover, self.cells[group][self.units(group, back=back)].ravel(), -1 if back else 1
        )
        self.lengths += change if back else -change
        self.level[group] += -1 if back else 1

    def growth(self, change: Floats) -> float:
        """Return by how much the figure grows when the lengths do by `change`."""
        each, touched = (
            self.products.each,
            np.flatnonzero((change[self.products.rows] > 0).any(axis=1)),
        )
        return float((each(self.lengths + change, touched) - each(self.lengths, touched)).sum())

    def set(self, level: Ints) -> None:
        """Go to given levels; steps that would empty an axis are given back, last group first."""
        level = np.maximum(level, self.given)
        removed = [
            c[: w[0] - w[i]].ravel() for c, w, i in zip(self.cells, self.widths, level, strict=True)
        ]
        self.cover = (
            np.bincount(np.concatenate(removed), minlength=len(self.cover))
            if removed
            else self.cover
        )
        self.level = np.array(level, np.int64)
        gone = np.bincount(self.row_of[self.cover > 0], minlength=self.roots)
        self.lengths = np.concatenate([self._full[: self.roots] - gone, [1.0], self.kept()])
        for group in reversed(range(len(level))):
            while self.can(group, back=True) and self._on_empty_axis(group):
                self.move(group, self.change(group, back=True), back=True)

    def _on_empty_axis(self, group: int) -> bool:
        """Tell whether a group's last step lies on an axis that keeps no position."""
        cells = self.cells[group][self.units(group, back=True)]
        return bool((self.lengths[self.row_of[cells]] < 1).any())


def owned_positions(cost: CostModel) -> list[Ints]:
    """Return per group the positions that each of its units owns: int64, shape (U, k)."""
    positions = _positions_of_components(cost)
    return [_cells(cost, positions, group.units) for group in cost.analysis.groups]


class Frontier:
    """The next step of every group of a ledger and what it saves, renewed only where it changed."""

    def __init__(self, ledger: Ledger) -> None:
        """Look at all groups once."""
        self.ledger = ledger
        count = len(ledger.cells)
        self._meets = _overlaps(ledger)
        owns = np.zeros((count, len(ledger.lengths)), np.bool_)
        for group, cells in enumerate(ledger.cells):
            owns[group, ledger.row_of[cells.ravel()]] = True
            owns[group, ledger.roots + 1 + group] = True
        moves = owns[:, ledger.products.rows].any(
            axis=2
        )  # (G, T): the group can change the product
        self._group, self._term = np.nonzero(moves)
        near = np.matmul(moves, moves.T)  # of bools: whether they share a product
        self._near = [np.flatnonzero(row[self._group]) for row in near]
        self.change = np.stack([ledger.change(g) for g in range(count)])
        self.saving = np.zeros(count)
        self._renew(np.arange(len(self._group)))

    def _renew(self, pairs: Ints) -> None:
        """Recompute the savings from these (group, product) pairs; all pairs of a group or none."""
        groups, terms = self._group[pairs], self._term[pairs]
        products = self.ledger.products
        rows = products.rows[terms]
        now = self.ledger.lengths[rows]
        after = now - self.change[groups[:, None], rows]
        lost = products.multiplied(now, terms) - products.multiplied(after, terms)
        self.saving[groups] = np.bincount(groups, lost, minlength=len(self.saving))[groups]

    def blocked(self, group: int) -> bool:
        """Tell whether a group's next step would leave an axis without positions."""
        roots = self.ledger.roots
        return bool((self.ledger.lengths[:roots] <= self.change[group, :roots]).any())

    def take(self, group: int) -> None:
        """Take a group's next step."""
        self.ledger.move(group, self.change[group])
        for other in self._meets[group]:
            self.change[other] = self.ledger.change(other)
        self._renew(self._near[group])


def _expand(starts: Ints, values: Ints, which: Ints) -> Ints:
    """Join the runs values[starts[w]:starts[w + 1]] for w in `which`."""
    counts = starts[which + 1] - starts[which]
    first = np.cumsum(counts) - counts
    index: Ints = np.repeat(starts[which] - first, counts) + np.arange(counts.sum())
    return values[index]


def _positions_of_components(cost: CostModel) -> tuple[Ints, Ints]:
    """Return (starts, positions): the positions of each component as runs."""
    solution = cost.analysis.solution
    counts = np.bincount(solution.component, minlength=len(solution.stays))
    return np.concatenate([[0], np.cumsum(counts)]), np.argsort(solution.component, kind="stable")


def _cells(cost: CostModel, positions: tuple[Ints, Ints], units: Ints) -> Ints:
    """Return the positions each unit owns: shape (U, k); k is the same for all units of a group."""
    solution = cost.analysis.solution
    cells = _expand(*positions, _expand(solution.starts, solution.members, units))
    return cells[cost.row_of[cells] < len(cost.roots)].reshape(len(units), -1)


def _overlaps(ledger: Ledger) -> list[Ints]:
    """Return for each group itself and the groups that own some of its positions."""
    own = [np.unique(cells) for cells in ledger.cells]
    group = np.repeat(np.arange(len(own)), [len(o) for o in own])
    shape = (len(own), len(ledger.cover))
    owner = coo_array(
        (np.ones(len(group), np.int32), (group, np.concatenate(own))), shape=shape
    ).tocsr()
    meets = (owner @ owner.T).tocsr()
    return [
        meets.indices[a:b].astype(np.int64)
        for a, b in zip(meets.indptr[:-1], meets.indptr[1:], strict=True)
    ]
