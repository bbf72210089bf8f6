"""SNIP: sensitivity of the loss to the connections of a unit (Lee et al. 2019, arXiv 1810.02340, 4.1).

    s_u = sum over w of u  |w dL/dw|  /  sum over all w  |w dL/dw|

dL/dw is the mean over samples. With `--rounds` this is IterSNIP (de Jorge et al. 2021, arXiv 2006.09081).
"""

from __future__ import annotations

import numpy as np

from onnxprune.core.analysis import Group
from onnxprune.core.contracts import CRITERIA, Evidence, Floats, PerGroup

from ._slopes import added, products


class Snip(PerGroup):
    """Scores by connection sensitivity."""

    needs = frozenset({"gradients"})
    comparable = True
    zero_is_least = True

    def score(self, group: Group, evidence: Evidence) -> Floats:
        """Return shares of the network's sensitivity: float64, shape (U,), dimensionless."""
        gradients = evidence.required().gradients
        assert gradients is not None
        slopes = gradients.weights
        held = evidence.analysis.graph.weights
        total = sum(
            float(np.abs(evidence.weight(n) * g).sum()) for n, g in slopes.items() if n in held
        )
        return added(products(group, evidence, slopes), absolute=True) / (total or 1.0)


CRITERIA.register("snip")(Snip())
