"""Scores of weights by derivatives, put together per unit over all that a group owns.

Structured forms of criteria of single weights add up the absolute scores of all weights of a unit (L1),
as in MIPP's comparison (Westphal et al. 2024, arXiv 2411.00147, 5), and so over every member of the
group: what writes the unit, what reads it and what goes with it. Losses of different groups are the
same unit, so nothing is normalised. A weight that has no derivative (running statistics) counts nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from onnxprune.core.analysis import Group, as_matrix
from onnxprune.core.contracts import Evidence, Floats
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.graph import Array

Slopes = Mapping[str, Array]


def products(group: Group, evidence: Evidence, slopes: Slopes, power: int = 1) -> Iterator[Floats]:
    """Yield w^power times its slope, over what each unit owns of a member: float64, (U, k * rest).

    Raises:
        OnnxPruneError: if no weight of the group has a slope.
    """
    members = [member for member in group.members if member.tensor in slopes]
    if not members:
        raise OnnxPruneError(
            f"no weight of group '{group.name}' has a gradient (quantised, or no loss depends on it): "
            "choose a criterion without gradients, such as reconstruction, or leave it out with --keep"
        )
    for member in members:
        values = evidence.weight(member.tensor) ** power * slopes[member.tensor]
        yield as_matrix(values, member.axis)[member.index].reshape(len(group), -1)


def added(parts: Iterator[Floats], *, absolute: bool) -> Floats:
    """Return the sum over all that units own, of absolute values or with their signs: shape (U,)."""
    total = sum((np.abs(p) if absolute else p).sum(axis=1) for p in parts)
    return np.asarray(total, np.float64)


def gated(group: Group, evidence: Evidence) -> Floats | None:
    """Return the derivative by a gate on each unit, sample by sample: float64, shape (N, U).

    A gate multiplies the unit wherever it is read. None where no reader's input was seen.
    """
    gradients = evidence.required().gradients
    assert gradients is not None  # the criterion that asks for it has named it among its needs
    places = {(r.linear.x, r.linear.x_axis): r.index for r in group.readers}
    seen = [
        gradients.gates[place][:, index].astype(np.float64).sum(axis=2)
        for place, index in places.items()
        if place in gradients.gates
    ]
    return np.asarray(sum(seen)) if seen else None
