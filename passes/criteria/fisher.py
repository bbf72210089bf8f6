"""Fisher: the loss to second order by one gate per unit (Theis et al. 2018, arXiv 1801.05787, 2.1).

    s_u = 1/2 mean over samples of ( sum over positions and readers  x dL/dx )^2

A gate on all that is coupled with a unit has one derivative, the sum over its readers, which is then
squared (Liu et al. 2021, Group Fisher Pruning, arXiv 2108.00708, 3.2). A unit that no linear operator
reads is scored by the mean derivative of its weights, squared alike.
"""

from __future__ import annotations

import numpy as np

from onnxprune.core.analysis import Group
from onnxprune.core.contracts import CRITERIA, Evidence, Floats, PerGroup

from ._slopes import added, gated, products


class Fisher(PerGroup):
    """Scores by the squared derivative by a unit's gate."""

    needs = frozenset({"gradients"})
    comparable = True
    zero_is_least = True

    def score(self, group: Group, evidence: Evidence) -> Floats:
        """Return changes of the loss: float64, shape (U,), in units of the loss."""
        gates = gated(group, evidence)
        if gates is not None:
            return np.asarray((gates**2).mean(axis=0) / 2)
        gradients = evidence.required().gradients
        assert gradients is not None
        return added(products(group, evidence, gradients.weights), absolute=False) ** 2 / 2


CRITERIA.register("fisher")(Fisher())
