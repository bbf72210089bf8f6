"""APoZ: channels that are rarely active go (Hu et al. 2016, arXiv 1607.03250).

    s_u = share of the values that readers see of unit u which are above zero = 1 - APoZ

The mean over the tensors that are read. Says something behind a ReLU only.
"""

from __future__ import annotations

import numpy as np

from onnxprune.core.analysis import Group
from onnxprune.core.contracts import CRITERIA, Evidence, Floats, PerGroup

from ._seen import averaged, maps_in, seen


class Apoz(PerGroup):
    """Scores by how often a unit is active."""

    needs = frozenset({"maps"})
    comparable = False
    zero_is_least = True

    def score(self, group: Group, evidence: Evidence) -> Floats:
        """Return shares of positive values: float64, shape (U,), in [0, 1]."""
        parts = [(x > 0).mean(axis=(0, 2, 3)) for x, _ in seen(group, maps_in(evidence))]
        return averaged([np.asarray(part, np.float64) for part in parts], len(group))


CRITERIA.register("apoz")(Apoz())
