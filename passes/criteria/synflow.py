"""SynFlow: synaptic flow, without data (Tanaka et al. 2020, arXiv 2006.05467, algorithm 1).

    R = sum of the outputs of the network with |w| for w, fed ones;    s_u = sum over w of u  |w dR/dw|

The least of all open units go, in `rounds` steps on the schedule |open| = share^(k / rounds), and R is
made anew after each. Scores of each step are counted from the highest of those gone before, so that who
goes later lies above. The last unit of a group is never taken, so that no layer collapses. No sample is
read; PyTorch is needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from onnxprune.core.contracts import CRITERIA, Evidence, Floats, Progress, Ranking, silent
from onnxprune.core.errors import needs_torch

from ._slopes import added, products

if TYPE_CHECKING:
    from onnxprune.torch.flow import Flow


@dataclasses.dataclass(frozen=True)
class SynFlow:
    """Scores by synaptic flow, in rounds.

    Attributes:
        rounds: how often flow is measured; 1: once.
        share: of the units, left open after the last round; scores below it are of that round.
    """

    needs = frozenset[str]()
    comparable = True
    zero_is_least = True
    chooses = False
    rounds: Annotated[int, Field(ge=1)] = 100
    share: Annotated[float, Field(gt=0, lt=1)] = 0.1

    def rank(self, evidence: Evidence, progress: Progress = silent) -> list[Ranking]:
        """Return one ranking per group; scores are flow when a unit went, counted upwards."""
        flow, groups = _flow(evidence), evidence.analysis.groups
        found = [np.zeros(len(group)) for group in groups]
        is_open = [np.ones(len(group), np.bool_) for group in groups]
        count, level = sum(map(len, groups)), 0.0
        for number in range(1, self.rounds + 1):
            slopes = flow.slopes()
            now = [added(products(g, evidence, slopes), absolute=True) for g in groups]
            for scores, values, left in zip(found, now, is_open, strict=True):
                scores[left] = level + values[left]
            if number == self.rounds:
                break
            left_open = sum(int(left.sum()) for left in is_open)
            stay = round(count * self.share ** (number / self.rounds))
            going = _least(found, is_open, left_open - stay)
            for group, scores, left, goes in zip(groups, found, is_open, going, strict=True):
                level = max(level, *scores[goes], 0.0)
                left &= ~goes
                for member in group.members:
                    flow.silence(member.tensor, member.axis, member.index[goes].ravel())
            progress("synflow", number, self.rounds)
        return [Ranking(scores) for scores in found]


def _least(
    scores: Sequence[Floats], is_open: Sequence[NDArray[np.bool_]], count: int
) -> list[NDArray[np.bool_]]:
    """Return which `count` open units have the least scores; the best of each group stays."""
    pool = [np.where(left, s, np.inf) for s, left in zip(scores, is_open, strict=True)]
    for values in pool:
        best = int(np.argmax(np.where(np.isinf(values), -np.inf, values)))
        values[best] = np.inf
    joined = np.concatenate(pool)
    chosen = np.argsort(joined, kind="stable")[: max(count, 0)]
    goes = np.zeros(len(joined), np.bool_)
    goes[chosen[np.isfinite(joined[chosen])]] = True
    return np.split(goes, np.cumsum([len(s) for s in scores])[:-1])


def _flow(evidence: Evidence) -> Flow:
    """Return the network of absolute weights.

    Raises:
        OnnxPruneError: if PyTorch is not installed, or an operator is not carried to it.
    """
    with needs_torch("synflow", "choose l1"):
        from onnxprune.torch.flow import Flow
    return Flow(evidence.analysis.graph)


CRITERIA.register("synflow")(SynFlow())
