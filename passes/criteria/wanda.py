"""Wanda, structured: weight times input norm (Sun et al. 2024; per channel as in FLAP's Wanda-sp).

    d_r,u = sum over channels j of u, outputs o, taps t of  |W_r[o, j, t]| |X_r,j|_2
    s_u   = mean over readers r of  d_r,u / mean_v d_r,v

Readers are the linear operators that sum over the unit (depthwise ones read it too). A unit that
none reads, or whose readers' input calibration could not see, is scored by L1 of its weights.
"""

from __future__ import annotations

import numpy as np

from onnxprune.core.analysis import Group
from onnxprune.core.contracts import CRITERIA, Evidence, Floats, PerGroup

from ._members import chosen, columns, coupled, observed, owned


class Wanda(PerGroup):
    """Scores by the magnitude of what the readers receive from a unit."""

    needs = frozenset({"moments"})
    comparable = False
    zero_is_least = True

    def score(self, group: Group, evidence: Evidence) -> Floats:
        """Return relative magnitudes: float64, shape (U,), dimensionless, mean 1."""
        seen = observed(group, evidence)
        if not seen:
            parts = [owned(m, evidence) for m in chosen(group, "produces", "consumes")]
            return coupled(np.abs(part).sum(axis=1) for part in parts)
        return coupled(
            (np.abs(columns(r, evidence)).sum(axis=1) * moments.norm)[r.index].sum(axis=1)
            for r, moments in seen
        )


CRITERIA.register("wanda")(Wanda())
