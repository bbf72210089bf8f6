"""What goes, of an unlocked axis, because the user listed what of it to keep."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from .analysis import Analysis
from .errors import OnnxPruneError
from .faces import Face

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Decided:
    """What goes and stays because the user listed what to keep.

    Attributes:
        units: int64, global numbers of the units that go, ascending.
        groups: per group, whether nothing of it is left to decide.
    """

    units: Ints
    groups: tuple[bool, ...]


def decided(analysis: Analysis) -> Decided:
    """Return the units that lists of positions to keep remove.

    Raises:
        OnnxPruneError: naming the first position that cannot go, or that would go with others.
    """
    going, touched = np.zeros((2, analysis.unit_count), np.bool_)
    for face in analysis.faces:
        if face.keep is not None:
            units, all_there = _listed(analysis, face)
            going |= units
            touched |= all_there
    for face in analysis.faces:
        if face.keep is not None:
            _check(analysis, face, np.flatnonzero(going))
    return Decided(
        np.flatnonzero(going).astype(np.int64),
        tuple(bool(touched[group.units].any()) for group in analysis.groups),
    )


def _positions(analysis: Analysis, face: Face) -> Ints:
    axis = analysis.space.find(face.tensor, face.axis)
    ids = None if axis is None else analysis.solution.positions(axis)
    if ids is None:
        raise OnnxPruneError(f"--unlock {face}: it cannot shrink")
    return ids


def _listed(analysis: Analysis, face: Face) -> tuple[Bools, Bools]:
    """Return which units own only positions that go, and which own any: bool, shape (U,) each."""
    ids = _positions(analysis, face)
    stay, gone = np.zeros((2, len(analysis.solution.component)), np.bool_)
    gone[ids] = True
    stay[ids[np.array(face.keep, np.int64)]] = True
    gone &= ~stay
    touch_gone, touch_stay = (units_at(analysis, p, every=False) for p in (gone, stay))
    return touch_gone & ~touch_stay, touch_gone | touch_stay


def _check(analysis: Analysis, face: Face, units: Ints) -> None:
    """Refuse a list that the units cannot follow."""
    ids = _positions(analysis, face)
    keeps = np.zeros(len(ids), np.bool_)
    keeps[np.array(face.keep, np.int64)] = True
    goes = analysis.mask(units).removed[ids]
    if (goes & keeps).any():
        first = int(np.flatnonzero(goes & keeps)[0])
        raise OnnxPruneError(
            f"--unlock {face}: position {first} cannot stay: it goes with others that are not listed"
        )
    if (stuck := ~goes & ~keeps).any():
        first = int(np.flatnonzero(stuck)[0])
        solution = analysis.solution
        component = solution.component[ids[first]]
        why = "it goes with others that are listed"
        if solution.stays[component]:
            why = solution.reasons[solution.reason[component]]
        raise OnnxPruneError(f"--unlock {face}: position {first} cannot go: {why}")


def units_at(analysis: Analysis, positions: Bools, *, every: bool) -> Bools:
    """Return per unit whether every one (or any) of its components has such a position.

    Args:
        analysis: whose units.
        positions: bool, shape (P,), over the solution's positions.
        every: all components, or any.
    """
    solution = analysis.solution
    if len(solution.starts) <= 1:
        return np.zeros(0, np.bool_)
    component = np.zeros(len(solution.stays), np.bool_)
    component[solution.component[positions]] = True
    reduce = np.logical_and if every else np.logical_or
    result: Bools = reduce.reduceat(component[solution.members], solution.starts[:-1])
    return result
