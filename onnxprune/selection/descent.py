"""How far each group goes: ranked by score lost per cost saved, mended by exchanges; or a common share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .grids import Grid
from .ledger import Frontier, Ledger

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
SLACK = 1 + 1e-9  # rounding of sums of products
_FEW = 64  # groups: of more, one step is little of the budget, and all pairs take long
_FURTHER = 3  # steps; with them all small cases are exact (benchmarks/selection_exact.py)


@dataclasses.dataclass(frozen=True)
class _Exchange:
    """Steps that lose less by `gain` in the end: groups in turn, and whether they get one back."""

    gain: float
    moves: tuple[tuple[int, bool], ...]


class Descent:
    """A ledger on its way down to a limit.

    Attributes:
        trail: after each step, the figure as a share of the original's, and the score lost.
    """

    def __init__(self, ledger: Ledger, lost: list[Floats], parts: list[Grid], limit: float) -> None:
        """Start at the top.

        Args:
            ledger: with nothing removed.
            lost: per group, the summed scores of its first n units to go, n = 0 ... U.
            parts: the groups, gathered by what they divide together.
            limit: what the ledger's figure shall not exceed.
        """
        self.ledger, self.lost, self.original = ledger, lost, ledger.figure()
        self.parts = parts
        self.limit = limit * SLACK
        self.trail = [(1.0, 0.0)]
        ledger.begin()

    def _note(self, figure: float, lost: float) -> None:
        """Enter the present state into the trail, with the score lost since its last entry."""
        self.trail.append((figure / self.original, self.trail[-1][1] + lost))

    def _loss(self, group: int, *, back: bool = False) -> float:
        """Return the summed score of a group's next step, or of its last; infinite if none."""
        if not self.ledger.can(group, back=back):
            return np.inf
        units = self.ledger.units(group, back=back)
        return float(self.lost[group][units.stop] - self.lost[group][units.start])

    def ranked(self) -> None:
        """Take the step that loses least per cost saved, until the limit is met."""
        front = Frontier(self.ledger)
        loss = np.array([self._loss(g) for g in range(len(self.lost))])
        figure = self.ledger.figure()
        while figure > self.limit:
            group = _cheapest(loss, front.saving, figure - self.limit)
            if group is None:
                return
            if front.blocked(group):
                loss[group] = np.inf
                continue
            figure -= front.saving[group]
            front.take(group)
            self._note(figure, loss[group])
            loss[group] = self._loss(group)
        self.give_back(np.zeros(len(self.lost), np.int64))
        if len(self.lost) <= _FEW:
            self.exchange()

    def exchange(self) -> None:
        """Go up to three steps further in a group where others then get back what is worth more.

        With few groups a step is much of the budget, and the order in which prices fall is not the
        best: this mends it, until no exchange gains.
        """
        groups = range(len(self.lost))
        while (best := max(map(self._exchanged, groups), key=lambda e: e.gain)).gain > self._least:
            for group, back in best.moves:
                self._move(group, back=back)
            self._note(self.ledger.figure(), -best.gain)

    @property
    def _least(self) -> float:
        """The least gain that is more than rounding."""
        return 1e-12 * max(1.0, self.trail[-1][1])

    def _exchanged(self, group: int) -> _Exchange:
        """Return the best of what steps further in a group give; the ledger stays as it is."""
        best, lost, further = _Exchange(0.0, ()), 0.0, 0
        while further < _FURTHER and self.ledger.can(group) and not self._empties(group):
            lost += self._loss(group)
            self._move(group)
            further += 1
            least = np.where(np.arange(len(self.lost)) == group, self.ledger.level, 0)
            back = list(self._coming_back(least))
            won = sum(worth for _, worth, _ in back)
            if won - lost > best.gain:
                moves = ((group, False),) * further + tuple((other, True) for other, _, _ in back)
                best = _Exchange(won - lost, moves)
            for other, _, _ in reversed(back):
                self._move(other)
        for _ in range(further):
            self._move(group, back=True)
        return best

    def _move(self, group: int, *, back: bool = False) -> None:
        self.ledger.move(group, self.ledger.change(group, back=back), back=back)

    def _empties(self, group: int) -> bool:
        """Tell whether a group's next step would leave an axis without positions."""
        roots = self.ledger.roots
        change = self.ledger.change(group)[:roots]
        return bool(((self.ledger.lengths[:roots] <= change) & (change > 0)).any())

    def common_share(self, share: float) -> None:
        """Let every axis lose `share` of its channels, as nearly as the allowed widths do.

        Groups that divide an axis as a grid (heads and head dimensions) lose less each: what they
        keep multiplies.
        """
        self.ledger.set(self._levels(share))
        gone = (len(s) - 1 - k for s, k in zip(self.lost, self.ledger.kept(), strict=True))
        lost = sum(float(s[n]) for s, n in zip(self.lost, gone, strict=True))
        self._note(self.ledger.figure(), lost)

    def least_common_share(self) -> None:
        """Let every axis lose the least common share that meets the limit; give back the spare."""
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            self.ledger.set(self._levels(middle))
            if self.ledger.figure() <= self.limit:
                high = middle
            else:
                low = middle
        self.common_share(high)
        self.give_back(self._levels(low))

    def _levels(self, share: float) -> Ints:
        """Return per group the level at which axes lose `share`, as nearly as can be."""
        levels = np.zeros(len(self.lost), np.int64)
        for part in self.parts:
            for group, level in part.levels(share, self.ledger.widths).items():
                levels[group] = level
        return levels

    def give_back(self, least_level: Ints) -> None:
        """Give back the step that is worth most per cost among those that fit, until none does.

        No group goes below `least_level`, its index into the allowed widths.
        """
        for _, worth, figure in self._coming_back(least_level):
            self._note(figure, -worth)

    def _coming_back(self, least_level: Ints) -> Iterator[tuple[int, float, float]]:
        """Take steps back one by one; yield the group, what it is worth, and the figure with it."""
        ledger, figure = self.ledger, self.ledger.figure()
        groups = list(range(len(least_level)))
        least_level = np.maximum(least_level, ledger.given)
        while groups := [g for g in groups if ledger.level[g] > least_level[g]]:
            changes = {g: ledger.change(g, back=True) for g in groups}
            growth = {g: ledger.growth(change) for g, change in changes.items()}
            # a step only grows dearer as others come back (but for blocks): what does not fit now
            # never will
            groups = [g for g in groups if figure + growth[g] <= self.limit]
            if not groups:
                return
            worth = [self._loss(g, back=True) for g in groups]
            price = [w / max(growth[g], 1e-300) for g, w in zip(groups, worth, strict=True)]
            best = int(np.argmax(price))
            figure += growth[groups[best]]
            ledger.move(groups[best], changes[groups[best]], back=True)
            yield groups[best], worth[best], figure


def _cheapest(loss: Floats, saving: Floats, need: float) -> int | None:
    """Return the group whose next step loses least per cost saved; None if there is no step.

    When that step suffices, the one that loses least among all that suffice. Where no step saves
    any, as within a block, the one that loses least: those behind it may.
    """
    useful = (saving > 0) & np.isfinite(loss)
    if not useful.any():
        return int(loss.argmin()) if np.isfinite(loss).any() else None
    price = np.divide(loss, saving, out=np.full(len(loss), np.inf), where=useful)
    best = int(price.argmin())
    if saving[best] < need:
        return best
    return int(np.where(useful & (saving >= need), loss, np.inf).argmin())
