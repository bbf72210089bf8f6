"""Rise of the least-squares loss when a unit goes and its readers are refitted.

For a reader y = W x + b with centred second moments S of its inputs and Q = (S + lambda I)^-1, the
best linear reader on what is left loses exactly

    dJ_G = tr( W_G (Q_GG)^-1 W_G^T ),      W <- W - W_G (Q_GG)^-1 Q_G:,   Q <- Q - Q_:G (Q_GG)^-1 Q_G:

when the input columns G go (all taps of a channel, all cells of a flattened one). Units go one by
one, the cheapest first; the score of a unit is the rise at that moment, summed over its readers,
each relative to the variance of the sum its output flows into. Source: optimal brain surgeon in
group form on second moments (Hassibi & Stork 1993; Luo et al. 2017, arXiv 1707.06342, for pruning).
"""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from onnxprune.core.analysis import Group, Reader
from onnxprune.core.contracts import CRITERIA, Evidence
from onnxprune.core.linear import weight_matrices
from onnxprune.core.stats import SecondMoments

log = logging.getLogger(__name__)
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclasses.dataclass
class Elimination:
    """One reader of a group: its weights and inverse second moments, downdated as units go.

    Attributes:
        weight: shape (G, q, p), reader weights per convolution group.
        inverse: shape (G, p, p), inverse of the regularised second moments.
        columns: shape (U, c), the columns (of every group) that each unit owns.
        scale: what the loss is divided by.
    """

    weight: Floats
    inverse: Floats
    columns: Ints
    scale: float

    def rises(self, units: Ints) -> Floats:
        """Relative loss rise of removing each of `units` alone, shape (len(units),)."""
        total = np.zeros(len(units))
        columns = self.columns[units]
        for weight, inverse in zip(self.weight, self.inverse, strict=True):
            blocks = inverse[columns[:, :, None], columns[:, None, :]]
            owned = weight[:, columns].transpose(1, 2, 0)
            total += np.einsum("ucq,ucq->u", owned, np.linalg.solve(blocks, owned))
        return total / self.scale

    def remove(self, units: Ints) -> None:
        """Refit without the columns of `units`; their rows and columns become inert."""
        columns = self.columns[units].ravel()
        for group in range(len(self.weight)):
            inverse, weight = self.inverse[group], self.weight[group]
            block = inverse[np.ix_(columns, columns)]
            rows = np.linalg.solve(block, inverse[columns])
            self.weight[group] = weight - weight[:, columns] @ rows
            self.inverse[group] = inverse - inverse[:, columns] @ rows
            self.weight[group][:, columns] = 0.0
            self.inverse[group][columns] = self.inverse[group][:, columns] = 0.0
            self.inverse[group][columns, columns] = 1.0


class Reconstruction:
    """Marginal loss rise after refitting, in order of elimination."""

    needs = frozenset({"moments", "second"})
    comparable = True
    zero_is_least = True
    ridge = 1e-3
    step = 1 / 64  # share of the remaining units that go at once in wide groups

    def score(self, group: Group, evidence: Evidence) -> Floats:
        """Return the rise of each unit at its elimination, shape (U,); higher = keep."""
        readers = [e for reader in group.readers if (e := self._open(reader, evidence)) is not None]
        if not readers:
            return self._unrefitted(group, evidence)
        left = np.arange(len(group))
        scores = np.zeros(len(group))
        floor = 0.0
        while len(left):
            rises = np.sum([r.rises(left) for r in readers], axis=0)
            count = max(1, int(len(left) * self.step)) if len(group) > 64 else 1
            order = np.argsort(rises, kind="stable")[:count]
            # later eliminations never count as cheaper: the order of removal is the order of scores
            scores[left[order]] = np.maximum(np.maximum.accumulate(rises[order]), floor)
            floor = float(scores[left[order]].max())
            if len(left) > count:
                for reader in readers:
                    reader.remove(left[order])
            left = np.delete(left, order)
        return scores

    def _open(self, reader: Reader, evidence: Evidence) -> Elimination | None:
        """Invert the second moments of one reader; None where it has none or nothing to refit."""
        statistics, linear = evidence.required(), reader.linear
        moments = statistics.second.get(linear.node)
        if moments is None:
            return None
        weight = weight_matrices(evidence.weight(linear.weight), linear)
        channels = _refitted_channels(reader)
        if channels is None:
            return None
        taps = int(np.prod(linear.kernel, dtype=np.int64))
        columns = (channels[:, :, None] * taps + np.arange(taps)).reshape(len(channels), -1)
        return Elimination(
            weight,
            _inverse(moments, self.ridge),
            columns,
            _scale(weight, moments, reader, evidence),
        )

    def _unrefitted(self, group: Group, evidence: Evidence) -> Floats:
        """Without second moments: squared norm of what consumers read, times input variance if known.

        Each consumer's share is relative to its own total, so that groups stay comparable.
        """
        log.info("group '%s' is scored without refitting (no second moments)", group.name)
        members = [m for m in group.members if m.role == "consumes"] or list(group.members)
        variances = {
            r.linear.weight: evidence.required()
            .moments[r.linear.x, r.linear.x_axis]
            .variance[r.index]
            .mean(axis=1)
            for r in group.readers
        }
        total = np.zeros(len(group))
        for member in members:
            weight = np.moveaxis(evidence.weight(member.tensor), member.axis, 0)
            energy = (weight.reshape(len(weight), -1) ** 2).sum(axis=1)[member.index].sum(axis=1)
            energy = energy * variances.get(member.tensor, 1.0)
            total += energy / max(float(energy.sum()), np.finfo(float).tiny)
        return total


def _refitted_channels(reader: Reader) -> Ints | None:
    """Input channels (within a convolution group) per unit, shape (U, c).

    None when whole convolution groups go: their outputs go with them and nothing is left to refit.
    """
    groups, index = reader.linear.groups, reader.index
    if groups == 1:
        return index
    if index.shape[1] % groups or reader.channels == groups:
        return None
    inner = reader.channels // groups
    parts = np.sort(index, axis=1).reshape(len(index), groups, -1)
    offsets = parts - np.arange(groups)[:, None] * inner
    return parts[:, 0] if (offsets == offsets[:, :1]).all() else None


def _inverse(moments: SecondMoments, ridge: float) -> Floats:
    """Inverse of S + lambda I per group, lambda = ridge * mean diagonal."""
    result = np.empty_like(moments.covariance, dtype=np.float64)
    for group, covariance in enumerate(moments.covariance):
        width = len(covariance)
        lam = ridge * float(np.trace(covariance)) / width + 1e-12
        factor = cho_factor(covariance + lam * np.eye(width), lower=True, overwrite_a=True)
        result[group] = cho_solve(factor, np.eye(width))
    return result


def _scale(weight: Floats, moments: SecondMoments, reader: Reader, evidence: Evidence) -> float:
    """Variance of the sum that the reader's output flows into; of the output itself otherwise."""
    own = float(np.einsum("gqp,gpr,gqr->", weight, moments.covariance, weight, optimize=True))
    target = evidence.analysis.sums.get(reader.linear.y)
    known = (
        None if target is None else evidence.required().moments.get((target, reader.linear.y_axis))
    )
    total = own if known is None else float(known.variance.sum())
    return max(total, np.finfo(float).tiny)


CRITERIA.register("reconstruction")(Reconstruction())
