"""Taylor: how much the loss changes, to first order, when a unit goes (Molchanov et al.).

    weight (2019, arXiv 1906.10771, 3.1):      s_u = | sum over w of u  w dL/dw |
    activation (2017, arXiv 1611.06440, 2.2):  s_u = mean over samples of | sum over positions  x dL/dx |

w are all weights that go with the unit, of everything coupled with it; x is what its readers read. Sums
over weights are made member by member, and their absolute values added (`_slopes`): what comes into a
unit and what goes out of it have the same sum, so signs across members would count nothing but twice.
Each sample counts by itself in the second form, so derivatives of opposite sign do not cancel; it is the
default, since it tells better what really is lost.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from onnxprune.core.analysis import Group
from onnxprune.core.contracts import CRITERIA, Evidence, Floats, PerGroup

from ._slopes import gated, products


@dataclasses.dataclass(frozen=True)
class Taylor(PerGroup):
    """Scores by the first-order change of the loss.

    Attributes:
        of: "activation" or "weight"; units that no linear operator reads are scored by weights.
    """

    needs = frozenset({"gradients"})
    comparable = True
    zero_is_least = True
    of: Literal["activation", "weight"] = "activation"

    def score(self, group: Group, evidence: Evidence) -> Floats:
        """Return changes of the loss: float64, shape (U,), in units of the loss."""
        gates = gated(group, evidence) if self.of == "activation" else None
        if gates is not None:
            return np.asarray(np.abs(gates).mean(axis=0))
        gradients = evidence.required().gradients
        assert gradients is not None
        parts = products(group, evidence, gradients.weights)
        return np.asarray(sum(np.abs(part.sum(axis=1)) for part in parts), np.float64)


CRITERIA.register("taylor")(Taylor())
