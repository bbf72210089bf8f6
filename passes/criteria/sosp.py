"""SOSP-H: the loss to second order, with what goes between units (Nonnenmacher et al. 2022, ICLR).

    s_u = | t_u g | + 1/2 | t_u H t |,    t = sum over all units v of t_v

t_u holds the weights that go with unit u, zeros elsewhere; g and H are gradient and Hessian of the loss
over the samples that are kept. One product with the Hessian serves all units.
"""

from __future__ import annotations

import numpy as np

from onnxprune.core.analysis import Group
from onnxprune.core.contracts import CRITERIA, Evidence, Floats, PerGroup

from ._slopes import added, products


class Sosp(PerGroup):
    """Scores by the change of the loss to second order."""

    needs = frozenset({"curvature"})
    comparable = True
    zero_is_least = True

    def score(self, group: Group, evidence: Evidence) -> Floats:
        """Return changes of the loss: float64, shape (U,), in units of the loss."""
        curvature = evidence.required().curvature
        assert curvature is not None
        first, second = (
            np.abs(added(products(group, evidence, slopes), absolute=False))
            for slopes in (curvature.gradient, curvature.along_weights)
        )
        return np.asarray(first + second / 2)


CRITERIA.register("sosp")(Sosp())
