"""Which widths a group may have: multiples of a rounding step, above a floor, or all it has."""

from __future__ import annotations

import difflib
import math
from collections import defaultdict
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from ..core.analysis import Analysis, Group
from ..core.errors import OnnxPruneError
from ..core.listed import decided
from .budget import Options

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def allowed_widths(analysis: Analysis, options: Options) -> list[Ints]:
    """Return per group the unit counts it may keep, descending: all, then multiples of its step.

    Returns:
        int64 arrays; the last entry is the least: one step, and the floor's share of the units.

    Raises:
        OnnxPruneError: if a `keep` pattern matches no group and no weight of the model, or one of
            which the user's lists say otherwise.
    """
    whole = _kept_whole(analysis, options.keep)
    found = []
    for group, step, keep, going in zip(
        analysis.groups, _steps(analysis, options.round_to), whole, listed(analysis), strict=True
    ):
        count = len(group)
        if going is not None:  # all or nothing: the user has said which
            if keep and going.any():
                raise OnnxPruneError(
                    f"--keep holds '{group.name}', but a list of what to keep lets some of it go"
                )
            left = [count, int((~going).sum())][: 2 if going.any() else 1]
            found.append(np.array(left, np.int64))
            continue
        least = math.ceil(max(step, options.floor * count - 1e-9) / step)
        below = np.arange((count - 1) // step, least - 1, -1, dtype=np.int64) * step
        found.append(np.concatenate([[count], below[: 0 if keep else None]]).astype(np.int64))
    return found


def listed(analysis: Analysis) -> list[Bools | None]:
    """Return per group which units go because the user listed what to keep; None: open.

    Returns:
        bool arrays, shape (U,) each.
    """
    found = decided(analysis)
    return [
        np.isin(group.units, found.units) if done else None
        for group, done in zip(analysis.groups, found.groups, strict=True)
    ]


def _steps(analysis: Analysis, round_to: int) -> list[int]:
    """Return how many units make one rounding step of each group.

    The channels of a step are a multiple of `round_to` on every axis that a linear operator writes
    or sums over. Where two groups divide an axis as a grid (groups and offsets of a convolution,
    heads and head dimensions), kept channels are a product: the group with fewer channels per unit
    steps first, as if the other could keep any count; the other relies on that step.
    """
    grids = _covering(analysis)
    steps: dict[int, int] = {}
    for number in sorted(
        range(len(analysis.groups)), key=lambda n: analysis.groups[n].multiplicity
    ):
        group, channels = analysis.groups[number], 0
        for member in [m for m in group.members if m.role != "carries"] or group.members:
            sure = member.index.shape[1]
            for other in grids[member.tensor, member.axis]:
                if other != number:
                    sure = sure // len(analysis.groups[other]) * steps.get(other, 1)
            channels = math.gcd(channels, max(sure, 1))
        steps[number] = _step(len(group), channels, round_to)
    return [steps[number] for number in range(len(analysis.groups))]


def _covering(analysis: Analysis) -> dict[tuple[str, int], list[int]]:
    """Return for each weight axis the groups whose units cover all of it."""
    found: dict[tuple[str, int], list[int]] = defaultdict(list)
    for number, group in enumerate(analysis.groups):
        for member in group.members:
            if member.index.size == analysis.graph.weights[member.tensor].shape[member.axis]:
                found[member.tensor, member.axis].append(number)
    return found


def _step(count: int, channels: int, round_to: int) -> int:
    """Return a step in units of `channels` each; `round_to` is halved until two steps fit."""
    while round_to > 1:
        units = round_to // math.gcd(round_to, channels)
        if 2 * units <= count:
            return units
        round_to //= 2
    return 1


def _kept_whole(analysis: Analysis, patterns: tuple[str, ...]) -> list[bool]:
    """Tell for each group whether a pattern names it or one of its weights."""
    names = [_names(analysis, group) for group in analysis.groups]
    known = set(analysis.graph.weights).union(*names)
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in known):
            near = difflib.get_close_matches(pattern, sorted(known), n=1, cutoff=0.0)
            hint = f"; the nearest name is '{near[0]}'" if near else ""
            raise OnnxPruneError(f"--keep '{pattern}' matches no group and no weight{hint}")
    return [any(_matches(name, p) for name in group for p in patterns) for group in names]


def _names(analysis: Analysis, group: Group) -> set[str]:
    """Return the names a group goes by: its weights, as here and as in the file."""
    tensors = {member.tensor for member in group.members}
    return {group.name} | tensors | {analysis.graph.origin.get(t, t) for t in tensors}


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)
