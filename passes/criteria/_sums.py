"""Sums over what each unit owns of the weights, read piece by piece: any size of model."""

from __future__ import annotations

import numpy as np

from onnxprune.core.analysis import Member
from onnxprune.core.contracts import Evidence, Floats


def power_sums(member: Member, evidence: Evidence, power: int) -> Floats:
    """Return sum |w|^power over the weights each unit owns of a member: float64, shape (U,)."""
    along: list[Floats] = []
    total: Floats | float = 0.0
    for piece in evidence.pieces(member.tensor):
        rest = tuple(i for i in range(piece.ndim) if i != member.axis)
        values = np.abs(piece) if power == 1 else np.square(piece, dtype=np.float64)
        sums = values.sum(axis=rest, dtype=np.float64)
        if member.axis == 0:
            along.append(sums)
        else:
            total = total + sums
    each = np.concatenate(along) if member.axis == 0 else np.asarray(total)
    return np.asarray(each[member.index].sum(axis=1))
