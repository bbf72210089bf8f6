"""GraSP: how much gradient flow is lost with a unit (Wang et al. 2020, arXiv 2002.07376, 4.1).

    S_w = - w (H g)_w   is to first order what |g|^2 / 2 gains without w;   s_u = sum over w of u  |S_w|

g is the gradient of the loss over the samples that are kept, H its Hessian. The paper removes the
largest S; as in MIPP's comparison a unit is scored by the L1 norm over its weights (`_slopes`), or with
`combine=sum` by minus their sum, the paper's order. Logits are taken as they are, not divided by 200,
which is for networks that have not been trained. With `--rounds` this is IterGraSP.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from onnxprune.core.analysis import Group
from onnxprune.core.contracts import CRITERIA, Evidence, Floats, PerGroup

from ._slopes import added, products


@dataclasses.dataclass(frozen=True)
class Grasp(PerGroup):
    """Scores by the change of gradient flow.

    Attributes:
        combine: "l1", the absolute scores of a unit's weights are added, or "sum", with their signs.
    """

    needs = frozenset({"curvature"})
    comparable = True
    zero_is_least = True  # not with signs: others lie below zero
    combine: Literal["l1", "sum"] = "l1"

    def score(self, group: Group, evidence: Evidence) -> Floats:
        """Return changes of the squared gradient: float64, shape (U,), in squared units of g."""
        curvature = evidence.required().curvature
        assert curvature is not None
        parts = products(group, evidence, curvature.along_gradient)
        return added(parts, absolute=self.combine == "l1")


CRITERIA.register("grasp")(Grasp())
