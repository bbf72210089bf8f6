"""Units of a cut model among those of the original: scores of the one as scores of the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..core.analysis import Analysis, Group, Mask
from ..core.contracts import Ranking
from ..core.listed import units_at

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Place = tuple[str, int]  # weight, axis


def unit_origins(cut: Mask, left: Analysis) -> Ints:
    """Return which unit of the original each unit of the cut model is.

    A unit is told by the positions that it owns of a weight, counted as in the original, and where
    several own the same, by the weights of its group.

    Args:
        cut: what was removed from the original.
        left: of the model without it, whose weights have kept their names.

    Returns:
        int64, shape (U,), global unit numbers; -1 where there is no such unit, or not only one.
    """
    owners: dict[tuple[Place, bytes], list[int]] = {}
    footprints: dict[int, frozenset[Place]] = {}
    known = set(cut.analysis.graph.weights)
    for group in cut.analysis.groups:
        held = _footprint(group, known)
        for place, unit, positions in _owned(group, cut, kept=False):
            owners.setdefault((place, positions), []).append(unit)
            footprints[unit] = held
    origins = np.full(left.unit_count, -1, np.int64)
    for group in left.groups:
        held = _footprint(group, known)
        for place, unit, positions in _owned(group, cut, kept=True):
            found = owners.get((place, positions), [])
            alike = [origin for origin in found if footprints[origin] == held] or found
            if len(alike) == 1:
                origins[unit] = alike[0]
    return origins


def _footprint(group: Group, known: set[str]) -> frozenset[Place]:
    return frozenset((m.tensor, m.axis) for m in group.members if m.tensor in known)


def _owned(group: Group, cut: Mask, *, kept: bool) -> Iterator[tuple[Place, int, bytes]]:
    """Yield per weight and unit what the unit owns of it, in positions of the original that are left.

    Args:
        group: of the original, or of the cut model.
        cut: what was removed.
        kept: whether the group counts positions as the cut model does.
    """
    for member in group.members:
        if member.tensor not in cut.analysis.graph.weights:
            continue  # a bias that a repair has added
        size = cut.analysis.graph.weights[member.tensor].shape[member.axis]
        gone = cut.gone_at(member.tensor, member.axis)
        gone = np.zeros(size, np.bool_) if gone is None else gone
        stays = np.flatnonzero(~gone)
        for unit, index in zip(group.units, member.index, strict=True):
            positions = stays[index] if kept else index[~gone[index]]
            if len(positions):
                yield (member.tensor, member.axis), int(unit), np.sort(positions).tobytes()


def lifted(cut: Mask, left: Analysis, origins: Ints, rankings: Sequence[Ranking]) -> list[Floats]:
    """Return scores of the cut model as scores of the original's units.

    What is gone lies below everything; a unit that can no longer go lies above its group.

    Returns:
        one array per group of the original, float64, shape (U,).
    """
    count = cut.analysis.unit_count
    scores, is_known = np.zeros(count), np.zeros(count, np.bool_)
    for group, ranking in zip(left.groups, rankings, strict=True):
        there = origins[group.units] >= 0
        scores[origins[group.units][there]] = ranking.scores[there]
        is_known[origins[group.units][there]] = True
    gone = units_at(cut.analysis, cut.removed, every=True)
    least = min(0.0, float(scores[is_known].min(initial=0.0)))
    scores[gone] = np.nextafter(least, -np.inf)
    is_known |= gone
    found = []
    for group in cut.analysis.groups:
        own, known = scores[group.units].copy(), is_known[group.units]
        own[~known] = own[known].max(initial=least)
        found.append(own)
    return found
