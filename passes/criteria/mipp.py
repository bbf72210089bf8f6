"""MIPP: nodes that transfer no entropy to the next layer go (Westphal et al. 2024, arXiv 2411.00147).

Groups are visited from outputs to inputs. In each, TERC tests the nodes against the values of the
nodes that read them and are still there; a map counts as one number per sample. The estimator is
ridge regression in closed form (see `_terc`).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from onnxprune.core.analysis import Group
from onnxprune.core.contracts import CRITERIA, Evidence, Floats, Progress, Ranking, silent
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.stats import Collapse, Summaries

from ._layers import layer_order
from ._terc import Judged, Reference, eliminated, judged

_FEWEST = 16  # samples


@dataclasses.dataclass(frozen=True)
class Mipp:
    """Keeps the nodes that transfer entropy to the nodes kept after them.

    Attributes:
        confidence: x of the paper: a higher one prunes more.
        tolerance: rise of the held-out loss that is allowed per group, as a share of what predicting
            the mean costs.
        collapse: how a map becomes one number.
        reference: the loss of all nodes, or of those left so far.
        nulls: shuffled nodes that show what chance reaches.
        damping: of the ridge.
    """

    confidence: float = 0.95
    tolerance: float = 0.01
    collapse: Collapse = "l1"
    reference: Reference = "full"
    nulls: int = 8
    damping: float = 1e-3
    needs = frozenset({"summaries"})
    comparable = True
    zero_is_least = True
    chooses = True

    def rank(self, evidence: Evidence, progress: Progress = silent) -> list[Ranking]:
        """Return one ranking per group; scores are shares of the targets' variance lost."""
        summaries = _summaries(evidence)
        groups = evidence.analysis.groups
        found: dict[int, Ranking] = {}
        for done, number in enumerate(reversed(layer_order(evidence.analysis))):
            kept = {n: ranking.keep for n, ranking in found.items() if ranking.keep is not None}
            x = nodes(groups[number], summaries, self.collapse)
            y = self._targets(number, evidence, summaries, kept)
            name = f"{number}-{'-'.join(str(k.sum()) for k in kept.values())}"
            held = evidence.memo(f"mipp-{name}", lambda x=x, y=y: self._arrays(x, y, evidence.seed))  # type: ignore[misc]
            found[number] = _ranking(held)
            progress("mipp", done + 1, len(groups))
        return [found[number] for number in range(len(groups))]

    def _targets(
        self,
        number: int,
        evidence: Evidence,
        summaries: Summaries,
        kept: dict[int, NDArray[np.bool_]],
    ) -> Floats:
        """Return what the nodes shall tell about, shape (n, q).

        For each operator that reads them: the nodes of the group that it writes, as they are read in
        turn, where that operator alone writes them; its own output, without channels that are gone,
        where it writes into a sum or out of the model.
        """
        analysis = evidence.analysis
        writers: dict[str, list[int]] = {}
        for other, group in enumerate(analysis.groups):
            for member in group.members:
                if member.role == "produces":
                    writers.setdefault(member.tensor, []).append(other)
        parts = []
        for reader in analysis.groups[number].readers:
            linear = reader.linear
            written = [n for n in writers.get(linear.weight, []) if n != number]
            place = (linear.y, linear.y_axis)
            if written and linear.y not in analysis.sums:
                for other in written:
                    values = nodes(analysis.groups[other], summaries, self.collapse)
                    parts.append(values[:, kept[other]] if other in kept else values)
            elif place in summaries.values:
                parts.append(summaries.collapsed(place, self.collapse))
        rows = len(next(iter(summaries.values.values()), ()))
        return np.concatenate([np.empty((rows, 0)), *parts], axis=1)

    def _arrays(self, x: Floats, y: Floats, seed: int) -> dict[str, NDArray[np.generic]]:
        """Test and rank the nodes of one group."""
        result: Judged = judged(
            x, y, confidence=self.confidence, tolerance=self.tolerance, reference=self.reference,
            nulls=self.nulls, damping=self.damping, seed=seed,
        )  # fmt: skip
        order, rise = eliminated(x, y, damping=self.damping)
        return {
            "keep": result.keep, "rise": result.rise, "certainty": result.certainty,
            "order": result.order, "loss": np.array(result.loss), "scores": rise, "gone": order,
        }  # fmt: skip


def nodes(group: Group, summaries: Summaries, how: Collapse) -> Floats:
    """Return one number per sample and unit, where its readers read it: float64, shape (n, U)."""
    total: Floats | float = 0.0
    places = {(r.linear.x, r.linear.x_axis): r.index for r in group.readers}
    for place, index in places.items():
        if place in summaries.values:
            total = total + summaries.collapsed(place, how)[:, index].sum(axis=2)
    if isinstance(total, float):
        rows = len(next(iter(summaries.values.values()), ()))
        return np.zeros((rows, len(group)))
    return total


def _summaries(evidence: Evidence) -> Summaries:
    summaries = evidence.required().summaries
    if summaries is None or evidence.required().samples < _FEWEST:
        raise OnnxPruneError(
            f"'mipp' needs at least {_FEWEST} samples, found {evidence.required().samples}: give more --data"
        )
    return summaries


def _ranking(held: dict[str, NDArray[np.generic]]) -> Ranking:
    """Read what was found; if no node tells anything, the one that the ranking holds best stays."""
    keep = np.asarray(held["keep"], np.bool_).copy()
    scores = np.asarray(held["scores"], np.float64)
    if not keep.any():
        keep[int(np.argmax(scores))] = True
    curves = {
        name: np.asarray(held[name], np.float64) for name in ("rise", "certainty", "order", "loss")
    }
    return Ranking(scores, keep, curves)


CRITERIA.register("mipp")(Mipp())
