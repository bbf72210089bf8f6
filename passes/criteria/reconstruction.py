"""Rise of the least-squares loss when a unit goes and its readers are refitted.

For a reader y = W x + b with centred second moments S of its inputs and Q = (S + lambda I)^-1, the
best linear reader on what is left loses exactly

    dJ_G = tr( W_G (Q_GG)^-1 W_G^T ),      W <- W - W_G (Q_GG)^-1 Q_G:,   Q <- Q - Q_:G (Q_GG)^-1 Q_G:

when the input columns G go (all taps of a channel, all cells of a flattened one). Units go one by
one, the cheapest first; the score of a unit is the rise at that moment, summed over its readers,
each relative to the variance of the sum its output flows into. Source: optimal brain surgeon in
group form on second moments (Hassibi & Stork 1993; Luo et al. 2017, arXiv 1707.06342, for pruning).

Within a group that ranks. Between groups it does not: an error counts by what the layers behind it
make of it, which no local loss knows (one dimension of a residual stream may hold nearly all of its
variance, and say nothing). So it is measured: the cheaper half of each group goes, its readers are
refitted, and a run over a few samples tells the error D of the outputs; the scores are scaled so that
those of that half sum up to D. The same at three quarters: losses of layers rise ever steeper than
local ones, the more so where few rows stand against many columns and a refit seems to cost nothing.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky
from scipy.linalg.blas import dgemm
from scipy.linalg.lapack import dpotri

from onnxprune.core.analysis import Group, Reader
from onnxprune.core.contracts import CRITERIA, Evidence, PerGroup, Progress, Ranking, silent
from onnxprune.core.linear import weight_matrices
from onnxprune.core.stats import SecondMoments

log = logging.getLogger(__name__)
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ANCHORS = (0.5, 0.75)  # shares of a group at whose removal the damage is measured
_ROUNDING = 1e-6  # losses that outputs in float32, or units without use, may come to by themselves
_COMPACT = 0.8  # share of live columns under which the arrays are moved together


@dataclasses.dataclass
class Elimination:
    """One reader of a group: its weights and inverse second moments, downdated as units go.

    Attributes:
        weight: shape (G, p, q), transposed reader weights per convolution group.
        inverse: shape (G, p, p), inverse of the regularised second moments.
        columns: shape (U, c), the columns (of every group) that each unit owns; -1 once gone.
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
            owned = weight[columns]
            energy = owned @ owned.transpose(0, 2, 1)
            total += np.trace(np.linalg.solve(blocks, energy), axis1=1, axis2=2)
        return total / self.scale

    def remove(self, units: Ints) -> None:
        """Refit without the columns of `units`: their rows and columns become zero."""
        gone = np.sort(self.columns[units].ravel())
        for weight, inverse in zip(self.weight, self.inverse, strict=True):
            rows = np.linalg.solve(inverse[np.ix_(gone, gone)], inverse[gone])
            weight -= rows.T @ weight[gone]
            # in place: inverse is symmetric, so its transpose is itself in Fortran order
            dgemm(-1.0, rows.T, inverse[gone], 1.0, inverse.T, overwrite_c=True)

    def compact(self, units: Ints) -> None:
        """Keep only the columns of `units` in the arrays, once a fifth of them is idle."""
        left = np.sort(self.columns[units].ravel())
        if len(left) > _COMPACT * self.weight.shape[1]:
            return
        place = np.zeros(self.weight.shape[1], np.int64)
        place[left] = np.arange(len(left))
        self.columns = place[self.columns]
        self.weight = self.weight[:, left]
        self.inverse = np.ascontiguousarray(self.inverse[:, left[:, None], left])


@dataclasses.dataclass(frozen=True)
class Reconstruction(PerGroup):
    """Marginal loss rise after refitting, in order of elimination.

    Attributes:
        measured: scale the scores of each group by what removing parts of it does to the outputs.
    """

    measured: bool = True

    needs = frozenset({"moments", "second", "streams"})
    comparable = True
    zero_is_least = True
    ridge = 1e-3  # where rows abound
    step = 1 / 32  # share of the remaining units that go at once in wide groups

    def rank(self, evidence: Evidence, progress: Progress = silent) -> list[Ranking]:
        """Return one ranking per group, in the order of the analysis' groups; resumes group by group."""
        groups, rankings = evidence.analysis.groups, []
        for number, group in enumerate(groups):
            make = partial(self._scaled, group, evidence)
            rankings.append(Ranking(evidence.memo(f"reconstruction-{number}", make)["scores"]))
            progress("score", number + 1, len(groups))
        return rankings

    def _scaled(self, group: Group, evidence: Evidence) -> dict[str, Floats]:
        """Return the scores of a group, in units of damage to the outputs where that is measured."""
        scores = self.score(group, evidence)
        if self.measured and evidence.damage is not None:
            scores = _anchored(group, scores, evidence.damage)
        return {"scores": scores}

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
                    reader.compact(np.delete(left, order))
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
            np.ascontiguousarray(weight.transpose(0, 2, 1)),
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


def _anchored(group: Group, scores: Floats, damage: Callable[[Ints], float | None]) -> Floats:
    """Return scores that sum up, from the cheapest on, to the damage measured at each anchor.

    Those behind the last anchor are scaled as those before it. None gets less than a cheaper one.
    """
    order, result = np.argsort(scores, kind="stable"), scores.copy()
    start, before, least = 0, 0.0, 0.0
    for anchor in _ANCHORS:
        stop = int(len(group) * anchor)
        found = damage(np.sort(group.units[order[:stop]])) if stop > start else None
        if found is None:
            continue
        rise = max(found - before, 0.0) + _ROUNDING
        local = float(scores[order[start:stop]].sum()) + _ROUNDING
        result[order[start:]] = np.maximum(scores[order[start:]] * rise / local, least)
        start, before, least = stop, found, float(result[order[stop - 1]])
    return result


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


def _inverse(moments: SecondMoments, least: float) -> Floats:
    """Inverse of S + lambda I per group, lambda = ridge * mean diagonal, the ridge by rows."""
    result = np.empty_like(moments.covariance, dtype=np.float64)
    ridges = moments.ridge(least)
    for group, covariance in enumerate(moments.covariance):
        width = len(covariance)
        lam = float(ridges[group]) * float(np.trace(covariance)) / width + 1e-12
        factor = cholesky(covariance + lam * np.eye(width), lower=True, overwrite_a=True)
        lower, _ = dpotri(factor, lower=True, overwrite_c=True)
        result[group] = np.tril(lower) + np.tril(lower, -1).T
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
