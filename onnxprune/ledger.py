"""Keeps the exact cost of a growing removal, and what each group's next step would save.

Costs do not add: a convolution's cost is a product of lengths. And units of different groups may
share positions (group units and offset units of a grouped convolution), so each position counts how
many removed units cover it; lengths shrink only with positions that become covered.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .budget import Figure
from .core.analysis import CostModel

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


class Ledger:
    """The state of a selection: how far each group went along its list of allowed widths.

    Attributes:
        level: int64, shape (G,): index into each group's widths.
        lengths: float64, shape (R,): kept positions per axis root, then 1, then kept units per group.
    """

    def __init__(self, cost: CostModel, figure: Figure, order: Sequence[Ints], widths: Sequence[Ints]) -> None:
        """Start with nothing removed.

        Args:
            cost: the model's cost.
            figure: what is counted.
            order: per group, its units (numbers within the group) in order of removal.
            widths: per group, the allowed unit counts, descending, the full count first.
        """
        groups = cost.analysis.groups
        self.widths, self.level = list(widths), np.zeros(len(groups), np.int64)
        self._roots = len(cost.roots)
        self.lengths = np.concatenate([cost.full, [len(g) for g in groups]])
        self._row_of = cost.row_of
        self._covered = np.zeros(len(cost.row_of), np.int32)
        self._cells = [_cells(cost, g.units[o]) for g, o in zip(groups, order, strict=True)]
        self._overlaps = self._shared_positions()
        self._rows, self._constants = self._products(cost, figure)
        self._pair()
        self._change = np.zeros((len(groups), len(self.lengths)))
        for number in range(len(groups)):
            self._renew(number)

    def _products(self, cost: CostModel, figure: Figure) -> tuple[Ints, Floats]:
        if figure == "units":
            rows = self._roots + 1 + np.arange(len(self.widths), dtype=np.int64)
            return rows[:, None], np.ones(len(rows))
        return cost.products(figure)

    def _shared_positions(self) -> list[Ints]:
        """Return for each group itself and the groups that own some of its positions."""
        touched = np.zeros((len(self._cells), len(self._covered)), np.bool_)
        for number, cells in enumerate(self._cells):
            touched[number, cells.ravel()] = True
        busy = touched[:, touched.sum(axis=0) > 1].astype(np.float32)
        meets = (busy @ busy.T > 0) | np.eye(len(busy), dtype=np.bool_)
        return [np.flatnonzero(row) for row in meets]

    def _pair(self) -> None:
        """List (group, product) pairs where the group can change the product, and who is near whom."""
        owns = np.zeros((len(self._cells), len(self.lengths)), np.bool_)
        for number, cells in enumerate(self._cells):
            owns[number, self._row_of[cells.ravel()]] = True
            owns[number, self._roots + 1 + number] = True
        owns[:, self._roots] = False
        moves = owns[:, self._rows].any(axis=2)  # (G, T)
        self._group_of, self._term_of = np.nonzero(moves)
        common = moves.astype(np.float32) @ moves.T.astype(np.float32) > 0
        self._near = [np.flatnonzero(common[i][self._group_of]) for i in range(len(common))]

    def figure(self) -> float:
        """Return the figure of what remains."""
        return float(self._constants @ self.lengths[self._rows].prod(axis=1))

    def savings(self, of: int | None = None, out: Floats | None = None) -> Floats:
        """Return what the next step of each group would save, shape (G,); 0 where there is none.

        Args:
            of: renew only the groups whose saving a step of this group can have changed.
            out: the savings before that step; changed in place.
        """
        pairs = slice(None) if of is None or out is None else self._near[of]
        groups, rows = self._group_of[pairs], self._rows[self._term_of[pairs]]
        now = self.lengths[rows]
        after = now - self._change[groups[:, None], rows]
        lost = (now.prod(axis=1) - after.prod(axis=1)) * self._constants[self._term_of[pairs]]
        total = np.bincount(groups, lost, minlength=len(self._cells))
        if out is None:
            return total
        out[groups] = total[groups]
        return out

    def step(self, number: int, *, back: bool = False) -> Ints:
        """Return positions (with repeats) of a group's next step, or of its last one taken."""
        level, widths = int(self.level[number]) - back, self.widths[number]
        if not 0 <= level < len(widths) - 1:
            return np.empty(0, np.int64)
        return self._cells[number][widths[0] - widths[level] : widths[0] - widths[level + 1]].ravel()

    def count(self, number: int, *, back: bool = False) -> int:
        """Return the number of units in that step."""
        level, widths = int(self.level[number]) - back, self.widths[number]
        return int(widths[level] - widths[level + 1]) if 0 <= level < len(widths) - 1 else 0

    def _renew(self, number: int) -> None:
        """Find anew how the lengths change with a group's next step."""
        cells = self.step(number)
        self._change[number] = self._shrinks(cells[self._covered[cells] == 0])
        self._change[number, self._roots + 1 + number] = self.count(number)

    def _shrinks(self, positions: Ints) -> Floats:
        rows = self._row_of[np.unique(positions)]
        return np.bincount(rows, minlength=len(self.lengths)).astype(np.float64)

    def empties(self, number: int) -> bool:
        """Tell whether a group's next step would leave an axis without positions."""
        return bool((self.lengths[: self._roots] <= self._change[number, : self._roots]).any())

    def take(self, number: int) -> None:
        """Remove the next step of a group."""
        np.add.at(self._covered, self.step(number), 1)
        self.lengths = self.lengths - self._change[number]
        self.level[number] += 1
        for other in self._overlaps[number]:
            self._renew(other)

    def regain(self, number: int) -> Floats:
        """Return the lengths that giving back a group's last step would regain, shape (R,)."""
        cells, times = np.unique(self.step(number, back=True), return_counts=True)
        regained = self._shrinks(cells[self._covered[cells] == times])
        regained[self._roots + 1 + number] = self.count(number, back=True)
        return regained

    def growth(self, regained: Floats) -> float:
        """Return by how much the figure grows with those lengths."""
        rows = self._rows[regained[self._rows].any(axis=1)]
        constants = self._constants[regained[self._rows].any(axis=1)]
        now = self.lengths[rows]
        return float(constants @ ((now + regained[rows]).prod(axis=1) - now.prod(axis=1)))

    def give_back(self, number: int) -> None:
        """Undo the last step of a group."""
        self.lengths = self.lengths + self.regain(number)
        np.subtract.at(self._covered, self.step(number, back=True), 1)
        self.level[number] -= 1
        for other in self._overlaps[number]:
            self._renew(other)

    def set(self, levels: Ints) -> None:
        """Go to given levels, then give back the last steps of groups until no axis is empty."""
        covered = np.zeros_like(self._covered)
        for number, cells in enumerate(self._cells):
            widths = self.widths[number]
            np.add.at(covered, cells[: widths[0] - widths[levels[number]]].ravel(), 1)
        self._covered, self.level = covered, np.array(levels, np.int64)
        self.lengths[: self._roots + 1] = self._full() - np.bincount(
            self._row_of[covered > 0], minlength=self._roots + 1
        )
        self.lengths[self._roots] = 1
        self.lengths[self._roots + 1 :] = [w[i] for w, i in zip(self.widths, levels, strict=True)]
