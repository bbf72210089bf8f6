"""L1: the sum of absolute weights (Li et al. 2017, Pruning Filters for Efficient ConvNets).

    s_u = mean over members m of  |W_m,u|_1 / mean_v |W_m,v|_1

`_members` states why. Members are the weights that produce the unit; all if none does.
"""

from __future__ import annotations

import dataclasses

from onnxprune.core.analysis import Group
from onnxprune.core.contracts import CRITERIA, Evidence, Floats, PerGroup

from ._members import chosen, coupled
from ._sums import power_sums


@dataclasses.dataclass(frozen=True)
class L1(PerGroup):
    """Scores by the L1 norm of weights.

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
        return coupled(power_sums(m, evidence, 1) for m in members)


CRITERIA.register("l1")(L1())
