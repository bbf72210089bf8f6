"""Cosine: blocks that turn their input least go first (block influence, ShortGPT, arXiv 2403.03853)."""

from __future__ import annotations

import dataclasses

from onnxprune.core.contracts import Progress, silent
from onnxprune.core.depth import DEPTH, DepthEvidence, DepthRanking, Level, Ranks

from ._alike import shifts


@dataclasses.dataclass(frozen=True)
class Cosine(Ranks):
    """Scores by 1 - E[cos(x, y)] over tokens, or over samples where rows are whole maps.

    Attributes:
        level: which blocks compete.
    """

    level: Level = "block"

    @property
    def needs(self) -> frozenset[str]:
        """What lies between both ends."""
        return frozenset({"shifts"})

    def rank(self, evidence: DepthEvidence, progress: Progress = silent) -> DepthRanking:  # noqa: ARG002 - quick
        """Return block influences: float64, shape (B,)."""
        return DepthRanking(1 - shifts(evidence).cosine)


DEPTH.register("cosine")(Cosine())
