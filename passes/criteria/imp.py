"""IMP: magnitude, to be applied in rounds (Frankle and Carbin 2019, arXiv 1803.03635).

    s_u = sum over all weights w of u, whatever it is coupled with, of  |w|

compared over the whole network as they are. The method is the loop around it: `--rounds 5 --retrain ...
--rewind` trains, removes the least, sets what is left back to the weights of the file, and so on
(Renda et al. 2020, arXiv 2003.02389, call where it is set back to the rewinding point).
"""

from __future__ import annotations

import numpy as np

from onnxprune.core.analysis import Group
from onnxprune.core.contracts import CRITERIA, Evidence, Floats, PerGroup

from ._sums import power_sums


class Imp(PerGroup):
    """Scores by the magnitude of all weights that go with a unit."""

    needs = frozenset[str]()
    comparable = True
    zero_is_least = True

    def score(self, group: Group, evidence: Evidence) -> Floats:
        """Return sums of absolute weights: float64, shape (U,), in the unit of the weights."""
        sums = (power_sums(member, evidence, 1) for member in group.members)
        return np.asarray(sum(sums), np.float64)


CRITERIA.register("imp")(Imp())
