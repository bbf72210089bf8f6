"""HRank: channels whose maps have a low rank go (Lin et al. 2020, arXiv 2002.10179).

    s_u = mean over samples of rank(map of u, as a matrix H x W)

The mean over the tensors that are read. A map of one position has rank 0 or 1; with more than two
axes of positions the first is kept and the rest joined.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from onnxprune.core.analysis import Group
from onnxprune.core.contracts import CRITERIA, Evidence, Floats, PerGroup

from ._seen import averaged, maps_in, seen


@dataclasses.dataclass(frozen=True)
class HRank(PerGroup):
    """Scores by the mean rank of maps.

    Attributes:
        samples: whose maps are decomposed, at most.
    """

    needs = frozenset({"maps"})
    comparable = False
    zero_is_least = True
    samples: int = 128

    def score(self, group: Group, evidence: Evidence) -> Floats:
        """Return mean ranks: float64, shape (U,)."""
        parts = []
        for x, shape in seen(group, maps_in(evidence)):
            maps = x[: self.samples]
            rows = shape[0] if shape else 1
            ranks = np.linalg.matrix_rank(maps.reshape(*maps.shape[:3], rows, -1))
            parts.append(np.asarray(ranks.mean(axis=(0, 2)), np.float64))
        return averaged(parts, len(group))


CRITERIA.register("hrank")(HRank())
