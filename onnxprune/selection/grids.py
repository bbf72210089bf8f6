"""How far the groups that divide an axis as a grid go, so that every axis loses a common share.

What heads and head dimensions keep multiplies to what their axis keeps; one group may divide several
axes, each with other partners (a stem of 64 channels, then 64 x 2, then 64 x 2 x 2 by depthwise
convolutions that double). With x_g the logarithm of the share that group g keeps, every axis a asks

    sum of x_g over the groups that divide a = log(1 - share),

which the least x of all least-squares solutions meets best: heads and head dimensions then keep
equal shares. Widths are whole numbers: the group of fewest units is settled first, the others take
up what it left.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..core.analysis import Analysis

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_LEAST = 1e-12  # what a share of all leaves, so that it has a logarithm


@dataclasses.dataclass(frozen=True)
class Grid:
    """Groups that have axes in common, directly or through others.

    Attributes:
        groups: numbers, fewest units first.
        divides: float64, shape (A, G): 1 where a group (column) divides an axis (row).
        wishes: per group float64, shape (A,): what it makes of what each axis has still to lose.
    """

    groups: tuple[int, ...]
    divides: Floats
    wishes: tuple[Floats, ...]

    def levels(self, share: float, widths: Sequence[Ints]) -> dict[int, int]:
        """Return the level of each group (index into its widths) at which axes lose `share`."""
        left = np.full(len(self.divides), np.log(max(1 - share, _LEAST)))
        found: dict[int, int] = {}
        for number, (group, wish) in enumerate(zip(self.groups, self.wishes, strict=True)):
            found[group], lost = _nearest(widths[group], min(float(wish @ left), 0.0))
            left = left - self.divides[:, number] * lost
        for number, group in reversed([*enumerate(self.groups)]):  # where others are at their floor
            spare = float(left[self.divides[:, number] > 0].max())
            if spare < 0:
                before = np.log(widths[group][found[group]] / widths[group][0])
                found[group], lost = _nearest(widths[group], before + spare)
                left = left - self.divides[:, number] * (lost - before)
        return found


def _nearest(widths: Ints, wish: float) -> tuple[int, float]:
    """Return the level nearest to keeping e^wish, ties to the narrower, and its own logarithm."""
    apart = np.abs(widths - np.exp(wish) * widths[0])[::-1]
    level = len(apart) - 1 - int(apart.argmin())
    return level, float(np.log(widths[level] / widths[0]))


def grids(analysis: Analysis) -> list[Grid]:
    """Gather the groups of an analysis into grids."""
    axes = _axes(analysis)
    count = len(analysis.groups)
    pairs = [(a, b) for axis in axes for a, b in pairwise(axis)]
    left, right = np.array(pairs, np.int64).reshape(-1, 2).T
    links = coo_array((np.ones(len(left), np.bool_), (left, right)), shape=(count, count))
    labels = connected_components(links, directed=False)[1] if count else np.zeros(0, np.int64)
    members: dict[int, list[int]] = defaultdict(list)
    for group, label in enumerate(labels.tolist()):
        members[label].append(group)
    rows: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for axis in axes:
        rows[int(labels[axis[0]])].append(axis)
    return [_grid(analysis, groups, rows[label]) for label, groups in members.items()]


def _grid(analysis: Analysis, groups: list[int], axes: list[tuple[int, ...]]) -> Grid:
    order = sorted(groups, key=lambda g: len(analysis.groups[g]))
    divides = np.array([[g in axis for g in order] for axis in axes], np.float64)
    wishes = [np.linalg.pinv(divides[:, k:])[0] for k in range(len(order))]
    return Grid(tuple(order), divides, tuple(wishes))


def _axes(analysis: Analysis) -> list[tuple[int, ...]]:
    """Return, once each, the sets of groups that divide an axis that linear operators use.

    A group that divides none of these is by itself.
    """
    covering: dict[tuple[str, int], list[int]] = defaultdict(list)
    for number, group in enumerate(analysis.groups):
        for member in [m for m in group.members if m.role != "carries"]:
            if member.index.size == analysis.graph.weights[member.tensor].shape[member.axis]:
                covering[member.tensor, member.axis].append(number)
    found = dict.fromkeys(map(tuple, covering.values()))
    seen = {number for axis in found for number in axis}
    return [*found, *((n,) for n in range(len(analysis.groups)) if n not in seen)]
