"""Branch: blocks that add least to what they begin with go first, |y - x| / |x|."""

from __future__ import annotations

import dataclasses

from onnxprune.core.contracts import Progress, silent
from onnxprune.core.depth import DEPTH, DepthEvidence, DepthRanking, Level, Ranks

from ._alike import shifts


@dataclasses.dataclass(frozen=True)
class Branch(Ranks):
    """Scores by the magnitude of the residual branch, relative to the stream; no gradients.

    Attributes:
        level: which blocks compete.
    """

    level: Level = "block"

    @property
    def needs(self) -> frozenset[str]:
        """What lies between both ends."""
        return frozenset({"shifts"})

    def rank(self, evidence: DepthEvidence, progress: Progress = silent) -> DepthRanking:  # noqa: ARG002 - quick
        """Return relative magnitudes: float64, shape (B,)."""
        return DepthRanking(shifts(evidence).magnitude)


DEPTH.register("branch")(Branch())
