"""The solver against brute force: every mask of a small random system of constraints is tried.

A unit is a valid mask that is not a union of smaller valid ones. Where rules couple whole axes (all
of a real network but shuffles and the like) the solver has to find exactly these; where they couple
single positions at random it may leave some out or join them, but never give an invalid mask.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import pytest

from onnxprune.core.positions import Axis, Declarations, Space
from onnxprune.core.solver import solve

Masks = npt.NDArray[np.int64]  # one bit a position
LARGEST = 14  # positions


@dataclass
class System:
    """Random axes and what is declared about them."""

    rng: np.random.Generator
    space: Space = field(default_factory=Space)
    axes: list[Axis] = field(default_factory=list)
    said: Declarations = field(default_factory=Declarations)

    def axis(self, size: int) -> Axis:
        self.axes.append(self.space.axis(f"t{len(self.axes)}", 0, size))
        return self.axes[-1]

    def part(self, axis: Axis, count: int) -> Axis:
        return axis.at(self.rng.choice(axis.size, count, replace=False))

    def grow(self, *, whole: bool) -> System | None:
        """Factor one or two axes, couple and protect some; None when it became too large."""
        for _ in range(self.rng.integers(1, 3)):
            sizes = [int(n) for n in self.rng.integers(2, 4, 2)]
            self.said.factor(self.axis(sizes[0] * sizes[1]), [self.axis(n) for n in sizes])
        for _ in range(self.rng.integers(0, 3)):
            self.axis(int(self.rng.integers(2, 5)))
        for _ in range(self.rng.integers(0, 4)):
            self._couple(*self.rng.choice(len(self.axes), 2), whole=whole)
        if self.rng.random() < 0.5:
            axis = self.axes[self.rng.integers(len(self.axes))]
            protected = axis if self.rng.random() < 0.3 else self.part(axis, 1)
            self.said.protects.append((protected, "chosen"))
        self.space.commit(self.said)
        return self if sum(a.size for a in self.axes) <= LARGEST else None

    def _couple(self, first: int, second: int, *, whole: bool) -> None:
        a, b = self.axes[first], self.axes[second]
        if whole or self.rng.random() < 0.6:
            if a.size == b.size:
                self.said.couple(a, b)
        else:
            count = int(self.rng.integers(1, min(a.size, b.size) + 1))
            self.said.couple(self.part(a, count), self.part(b, count))

    def bits(self, axis: Axis) -> npt.NDArray[np.int64]:
        """The bit of each position of an axis."""
        starts = [0, *accumulate(a.size for a in self.axes)]
        first = starts[[a.id for a in self.axes].index(axis.id)]
        index = np.arange(axis.size) if axis.index is None else axis.index
        return first + index.astype(np.int64)

    def valid(self) -> Masks:
        """All valid masks."""
        masks = np.arange(1 << sum(a.size for a in self.axes))

        def gone(axis: Axis) -> npt.NDArray[np.bool_]:
            return (masks[:, None] >> self.bits(axis) & 1).astype(bool)

        fits = np.ones(len(masks), bool)
        for a, b in self.said.couples:
            fits &= (gone(a) == gone(b)).all(axis=1)
        for axis, _ in self.said.protects:
            fits &= ~gone(axis).any(axis=1)
        for flat, (first, second) in self.said.factors:
            either = gone(first)[:, :, None] | gone(second)[:, None, :]
            fits &= (gone(flat) == either.reshape(len(masks), -1)).all(axis=1)
        return masks[fits]

    def units(self) -> set[int]:
        """What the solver finds."""
        solution = solve(self.space)
        found = set()
        for start, end in zip(solution.starts, solution.starts[1:], strict=False):
            mask = 0
            for axis in self.axes:
                ids = solution.positions(axis.id)
                if ids is not None:
                    inside = np.isin(solution.component[ids], solution.members[start:end])
                    mask |= sum(1 << int(bit) for bit in self.bits(axis)[inside])
            found.add(mask)
        return found


def irreducible(valid: Masks) -> set[int]:
    """The valid masks that are not the union of smaller ones."""
    found = set()
    for mask in valid[valid > 0]:
        smaller = valid[(valid & mask == valid) & (valid != mask)]
        if np.bitwise_or.reduce(smaller, initial=0) != mask:
            found.add(int(mask))
    return found


def systems(first: int, count: int, *, whole: bool) -> list[System]:
    grown = (
        System(np.random.default_rng(seed)).grow(whole=whole)
        for seed in range(first, first + count)
    )
    return [system for system in grown if system is not None]


@pytest.mark.parametrize("first", range(0, 1000, 250))
def test_units_are_the_irreducible_masks(first: int) -> None:
    for system in systems(first, 250, whole=True):
        assert system.units() == irreducible(system.valid()), f"{system.said}"


@pytest.mark.parametrize("first", range(0, 1000, 250))
def test_units_and_their_unions_are_valid(first: int) -> None:
    for system in systems(first, 250, whole=False):
        valid, units = set(system.valid().tolist()), system.units()
        unions = {a | b for a in units for b in units}

        assert units | unions <= valid, f"{system.said}"


def test_few_units_are_missed_where_positions_are_coupled_at_random() -> None:
    same = [s.units() == irreducible(s.valid()) for s in systems(0, 1000, whole=False)]

    assert np.mean(same) > 0.75
