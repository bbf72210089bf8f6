"""FPGM: distance to all other filters (He et al. 2019, Filter Pruning via Geometric Median).

    d_m,u = sum_v |W_m,u - W_m,v|_2        s_u = mean over members m of  d_m,u / mean_v d_m,v

A unit near the geometric median is the one that the others replace best. `_members` states the
rule for coupled weights. Members are the weights that produce the unit; all if none does.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from onnxprune.core.analysis import Group
from onnxprune.core.contracts import CRITERIA, Evidence, Floats, PerGroup

from ._members import chosen, coupled, owned

_ROWS = 1024  # units whose distances are held at a time, so that memory is linear in the units


@dataclasses.dataclass(frozen=True)
class Fpgm(PerGroup):
    """Scores by the summed distance to the other units.

    Attributes:
        consumers: whether the weights that read a unit count too, not only those that write it.
    """

    needs = frozenset[str]()
    comparable = False
    zero_is_least = False  # zero may lie far from the median
    consumers: bool = False

    def score(self, group: Group, evidence: Evidence) -> Floats:
        """Return relative summed distances: float64, shape (U,), dimensionless, mean 1."""
        members = chosen(group, "produces", *(("consumes",) if self.consumers else ()))
        return coupled(_summed_distances(owned(m, evidence)) for m in members)


def _summed_distances(rows: Floats) -> Floats:
    """Return sum_v |x_u - x_v| for rows x: shape (U, d) -> (U,)."""
    square = np.einsum("ij,ij->i", rows, rows)
    total = np.empty(len(rows))
    for first in range(0, len(rows), _ROWS):
        part = slice(first, first + _ROWS)
        apart = square[part, None] + square - 2 * rows[part] @ rows.T
        total[part] = np.sqrt(np.maximum(apart, 0)).sum(axis=1)
    return total


CRITERIA.register("fpgm")(Fpgm())
