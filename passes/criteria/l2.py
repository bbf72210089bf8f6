"""L2: the Euclidean norm of weights (He et al. 2018, Soft Filter Pruning).

    s_u = mean over members m of  |W_m,u|_2 / mean_v |W_m,v|_2

`_members` states why. Members are the weights that produce the unit; all if none does.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from onnxprune.core.analysis import Group
from onnxprune.core.contracts import CRITERIA, Evidence, Floats, PerGroup

from ._members import chosen, coupled
from ._sums import power_sums


@dataclasses.dataclass(frozen=True)
class L2(PerGroup):
    """Scores by the L2 norm of weights.

    Attributes:
        consumers: whether the weights that read a unit count too, not only those that write it.
    """

    needs = frozenset[str]()
    comparable = False
    zero_is_least = True
    consumers: bool = False

    def score(self, group: Group, evidence: Evidence) -> Floats:
        """Return relative norms: float64, shape (U,), dimensionless, mean 1."""
        members = chosen(group, "produces", *(("consumes",) if self.consumers else ()))
        return coupled(np.sqrt(power_sums(m, evidence, 2)) for m in members)


CRITERIA.register("l2")(L2())
