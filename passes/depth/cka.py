"""CKA: blocks whose end is most like their beginning go first (Kornblith et al. 2019, debiased)."""

from __future__ import annotations

import dataclasses

import numpy as np

from onnxprune.core.contracts import Progress, silent
from onnxprune.core.depth import DEPTH, DepthEvidence, DepthRanking, Level, Ranks

from ._alike import FORMS, Form, similarity


@dataclasses.dataclass(frozen=True)
class Cka(Ranks):
    """Scores by 1 - CKA(x, y).

    Attributes:
        cka: "debiased", "biased" (per sentence) or "features".
        level: which blocks compete.
    """

    cka: Form = "debiased"
    level: Level = "block"

    @property
    def needs(self) -> frozenset[str]:
        """The form of CKA."""
        return frozenset({FORMS[self.cka]})

    def rank(self, evidence: DepthEvidence, progress: Progress = silent) -> DepthRanking:  # noqa: ARG002 - quick
        """Return 1 - similarity of both ends: float64, shape (B,)."""
        matrix = similarity(evidence)
        scores = np.array([1 - matrix[a, b] for a, b in evidence.ends], np.float64)
        return DepthRanking(np.nan_to_num(scores, nan=2.0))


DEPTH.register("cka")(Cka())
