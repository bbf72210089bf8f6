"""The solver: what their tests share."""

from __future__ import annotations

import numpy as np

from onnxprune.core.analysis import Group


def rows(group: Group, tensor: str, axis: int = 0) -> set[tuple[int, ...]]:
    """What each unit owns of a weight's axis."""
    (member,) = (m for m in group.members if (m.tensor, m.axis) == (tensor, axis))
    return {tuple(row) for row in np.sort(member.index, axis=1).tolist()}


def singles(count: int) -> set[tuple[int, ...]]:
    return {(i,) for i in range(count)}
