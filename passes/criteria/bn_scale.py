"""BN scale: channels whose BatchNormalization scales them down go (Liu et al. 2017, arXiv 1708.06519, 3).

    s_u = mean over the BatchNormalizations of u of  |gamma_u|

Network Slimming compares gamma over all layers, after training with an L1 penalty on it; here gamma is
taken as it is found. Where BatchNormalization was folded into the weights before it, none is left.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from onnxprune.core.analysis import Group
from onnxprune.core.contracts import CRITERIA, Evidence, Floats, PerGroup
from onnxprune.core.errors import OnnxPruneError

_SCALE = 1  # which input of BatchNormalization is gamma


@dataclasses.dataclass(frozen=True)
class BnScale(PerGroup):
    """Scores by the absolute scale of BatchNormalization."""

    needs = frozenset[str]()
    comparable = True
    zero_is_least = True

    def score(self, group: Group, evidence: Evidence) -> Floats:
        """Return absolute scales: float64, shape (U,), as large as in the file.

        Raises:
            OnnxPruneError: if no BatchNormalization scales the group.
        """
        nodes = (n for n in evidence.analysis.graph.nodes if n.op_type == "BatchNormalization")
        scales = {node.input[_SCALE] for node in nodes}
        found = [
            np.abs(evidence.weight(member.tensor))[member.index].mean(axis=1)
            for member in group.members
            if member.tensor in scales
        ]
        if not found:
            raise OnnxPruneError(
                f"'bn-scale' needs BatchNormalization in every group, found none in '{group.name}': "
                "export without folding it, or choose l1 or l2"
            )
        return np.asarray(np.mean(found, axis=0), np.float64)


CRITERIA.register("bn-scale")(BnScale())
