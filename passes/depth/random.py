"""Random: the baseline that every other depth score must beat."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np

from onnxprune.core.contracts import Progress, silent
from onnxprune.core.depth import DEPTH, DepthEvidence, DepthRanking, Level, Ranks


@dataclasses.dataclass(frozen=True)
class Random(Ranks):
    """Draws scores uniformly, by seed and name of the block.

    Attributes:
        level: which blocks compete.
    """

    level: Level = "block"

    def rank(self, evidence: DepthEvidence, progress: Progress = silent) -> DepthRanking:  # noqa: ARG002 - quick
        """Return numbers in [0, 1): float64, shape (B,)."""
        keys = ([evidence.seed, zlib.crc32(block.y.encode())] for block in evidence.blocks)
        return DepthRanking(np.array([np.random.default_rng(key).random() for key in keys]))


DEPTH.register("random")(Random())
