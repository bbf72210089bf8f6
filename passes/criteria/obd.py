"""OBD: what the weights of a unit are worth by curvature (LeCun et al. 1989, Optimal Brain Damage).

    s_u = sum over w of u  1/2 w^2 H_ww,    H_ww ~ F_ww = mean over samples of (dL/dw)^2

The diagonal of the Hessian is taken from the empirical Fisher information, as Torch-Pruning and others
do; terms between weights are left out, as in the paper.
"""

from __future__ import annotations

from onnxprune.core.analysis import Group
from onnxprune.core.contracts import CRITERIA, Evidence, Floats, PerGroup

from ._slopes import added, products


class Obd(PerGroup):
    """Scores by squared weights times the diagonal of the Fisher information."""

    needs = frozenset({"squares"})
    comparable = True
    zero_is_least = True

    def score(self, group: Group, evidence: Evidence) -> Floats:
        """Return changes of the loss: float64, shape (U,), in units of the loss."""
        squares = evidence.required().squares
        assert squares is not None
        return added(products(group, evidence, squares, power=2), absolute=True) / 2


CRITERIA.register("obd")(Obd())
