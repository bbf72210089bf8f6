"""Output: blocks whose removal, each by itself, changes the model's outputs least go first."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from onnxprune.core.contracts import SURGERIES, Progress, Samples, silent
from onnxprune.core.depth import DEPTH, DepthEvidence, DepthRanking, Level, Ranks
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.graph import Graph
from onnxprune.core.runtime import Session

_BATCH = 32  # samples per run


@dataclasses.dataclass(frozen=True)
class Output(Ranks):
    """Scores by |f(x) - f_without(x)|^2 / |f(x)|^2, summed over floating-point outputs.

    One run of the model per block: the dearest of the scores, and the only one that sees the end.

    Attributes:
        samples: at most so many.
        level: which blocks compete.
    """

    samples: Annotated[int, Field(ge=1)] = 128
    level: Level = "block"
    needs_samples = True

    def rank(self, evidence: DepthEvidence, progress: Progress = silent) -> DepthRanking:
        """Return squared relative output errors: float64, shape (B,)."""
        if evidence.samples is None:
            raise OnnxPruneError("depth score 'output' needs sample inputs: give --data")
        analysis, samples = evidence.analysis, evidence.samples.part(0, self.samples)
        expected = _outputs(analysis.graph, samples, evidence.provider)
        size = sum(float((a**2).sum()) for a in expected)
        scores = np.empty(len(evidence.blocks))
        for number, block in enumerate(evidence.blocks):
            progress("score blocks", number, len(evidence.blocks))
            left = SURGERIES["blocks"](analysis.mask(np.empty(0, np.int64), (block,)))
            found = _outputs(left, samples, evidence.provider)
            scores[number] = _distance(found, expected) / max(size, np.finfo(np.float64).tiny)
        return DepthRanking(np.nan_to_num(scores, nan=np.inf).clip(max=1e30))


def _outputs(graph: Graph, samples: Samples, provider: str) -> list[Any]:
    session = Session(graph, provider=provider)
    kept = []
    for batch in samples.batches(_BATCH):
        feeds = {name: batch[name] for name in session.inputs if name in batch}
        found = session.run(feeds).values()
        kept += [np.asarray(value) for value in found if np.asarray(value).dtype.kind == "f"]
    return kept


def _distance(found: Sequence[Any], expected: Sequence[Any]) -> float:
    pairs = zip(found, expected, strict=True)
    return sum(float(((a.astype(np.float64) - b) ** 2).sum()) for a, b in pairs)


DEPTH.register("output")(Output())
