"""MPruner: of points that are alike the first stays, as long as accuracy holds (arXiv 2408.13482).

Similarity is CKA over the whole network; a cluster is a run of consecutive points that are at least
`tau` percent like its first. All blocks of a cluster but the first go (k = 1), or every second or third
(k = 2, 3). If more than `threshold` is lost after the repair, the round is undone and k grows;
otherwise similarities are measured anew and the next round begins.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import numpy as np
from pydantic import Field

from onnxprune.core.contracts import Progress, silent
from onnxprune.core.depth import DEPTH, DepthEvidence, DepthRanking, DepthScore, Guard, Level

from ._alike import FORMS, Form, similarity
from ._clusters import clusters, thinned

_COARSEST = 3  # the largest k


@dataclasses.dataclass(frozen=True)
class MPruner:
    """Leaves out blocks of clusters.

    Attributes:
        tau: similarity that makes a cluster, percent.
        k: granularity to begin with: 1 takes all but the first of a cluster, 2 every second.
        threshold: drop of accuracy or agreement that is accepted, as a share; 0.04 in the paper.
        rounds: at most so many.
        cka: "debiased" over blocks of rows; "biased" per sentence, as the paper's code for BERT and
            T5; "features": biased over all rows, in the space of features.
        level: which blocks compete; whole layers in the paper.
    """

    tau: Annotated[float, Field(gt=0, le=100)] = 98.0
    k: Annotated[int, Field(ge=1, le=_COARSEST)] = 1
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.04
    rounds: Annotated[int, Field(ge=1)] = 8
    cka: Form = "debiased"
    level: Level = "layer"
    needs_samples = True

    @property
    def needs(self) -> frozenset[str]:
        """The form of CKA."""
        return frozenset({FORMS[self.cka]})

    @property
    def guard(self) -> Guard:
        """How far it goes."""
        return Guard(self.threshold, self.rounds)

    def finer(self) -> DepthScore | None:
        """Return the next granularity."""
        return None if self.k == _COARSEST else dataclasses.replace(self, k=self.k + 1)

    def rank(self, evidence: DepthEvidence, progress: Progress = silent) -> DepthRanking:  # noqa: ARG002 - quick
        """Return which blocks go; scores are 1 - similarity to the cluster that a block begins in."""
        matrix = similarity(evidence)
        runs = clusters(matrix, self.tau / 100)
        going = {point for run in runs for point in thinned(run, self.k)}
        first = {point: run[0] for run in runs for point in run}
        scores = np.array([1 - matrix[first[a], b] for a, b in evidence.ends])
        # a block that ends within a cluster goes only if it begins in it: what it adds is little
        goes = np.array(
            [end in going and first[start] == first[end] for start, end in evidence.ends]
        )
        return DepthRanking(np.nan_to_num(scores, nan=2.0), goes, tuple(runs))


DEPTH.register("mpruner")(MPruner())
