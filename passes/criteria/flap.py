"""FLAP: fluctuation of what a unit sends (An et al. 2024, Fluctuation-based Adaptive Pruning).

    d_r,u = sum over channels j of u of  Var_samples(mean X_r,j) |W_r[:, j]|_2^2
    s_u   = mean over readers r of  (d_r,u - mean_v d_r,v) / std_v d_r,v

A channel that hardly varies is replaced by its mean, folded into the next bias (repair "mean").
Standardised scores of different layers are compared with each other, as in the paper. A unit that
no linear operator reads is scored by the squared norm of its weights, standardised likewise.
"""

from __future__ import annotations

import numpy as np

from onnxprune.core.analysis import Group
from onnxprune.core.contracts import CRITERIA, Evidence, Floats, PerGroup

from ._members import chosen, columns, coupled, observed, owned


class Flap(PerGroup):
    """Scores by the fluctuation that the readers would lose."""

    needs = frozenset({"moments"})
    comparable = True
    zero_is_least = True

    def score(self, group: Group, evidence: Evidence) -> Floats:
        """Return standard scores: float64, shape (U,), in standard deviations, mean 0."""
        seen = observed(group, evidence)
        if not seen:
            parts = [owned(m, evidence) for m in chosen(group, "produces", "consumes")]
            return coupled(((part**2).sum(axis=1) for part in parts), _standard)
        fluctuations = (
            ((columns(r, evidence) ** 2).sum(axis=1) * moments.fluctuation)[r.index].sum(axis=1)
            for r, moments in seen
        )
        return coupled(fluctuations, _standard)


def _standard(scores: Floats) -> Floats:
    """Return (s - mean) / std; zeros if all are equal (their std is rounding, not spread)."""
    if np.ptp(scores) == 0:
        return np.zeros_like(scores)
    standard: Floats = (scores - scores.mean()) / scores.std()
    return standard


CRITERIA.register("flap")(Flap())
