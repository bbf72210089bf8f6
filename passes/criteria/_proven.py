"""The candidate that adds most to a set, proved to be so from few eigenvalues of N x N matrices.

In I(Y; B, S, j) = S(Y) + S(B, S, j) - S(Y, B, S, j) the last term is cheap where Y are classes: small
blocks. The one before is below the tangent of the entropy at any matrix (`_renyi.tangent`): one sum
over the kernel of j. Candidates are tried from the highest such bound on, until the next bound is
below what was found: the rest cannot win. So the order is that of all candidates compared exactly.
"""

from __future__ import annotations

import numpy as np
from array_api_compat import array_namespace

from onnxprune.core.contracts import Floats

from . import _renyi as renyi
from ._candidates import Candidates, Found
from ._target import Ints, Target, Xp, above, full

_NEAR = 8  # candidates that came nearest before: the tangent is taken at the mean of these
_FEW = 3  # so many have their eigenvalues sooner than a tangent
_ROUNDING = 1e-9  # nats


class Proven(Candidates):
    """Chooses among all candidates by bounds, at alpha >= 1: below, small eigenvalues rule slopes."""

    def __init__(self, logs: Xp, target: Target, alpha: float) -> None:
        """Args: log kernels (C, T), Y, the order of the entropy."""
        xp = array_namespace(logs)
        super().__init__(xp.exp(xp.astype(logs, xp.float64)))
        self.target, self.alpha = target, alpha
        self.labels = xp.exp(xp.astype(target.log, xp.float64))
        self.near = self.rows
        places = np.zeros((target.samples, target.samples), np.int64)
        places[renyi.pairs(target.samples)] = np.arange(logs.shape[-1])
        places += places.T
        self.pairs = [above(places[rows[:, None], rows]) for rows in target.classes]
        self.within = [self.kernels[:, pairs] for pairs in self.pairs]  # (C, pairs of a class)

    def best(self, state: Xp) -> Found:
        """Try candidates from the highest bound on, until the next is too low to win."""
        xp = array_namespace(state)
        known, alone = xp.exp(state), self.target.entropy(self.alpha)
        candidates, rows = self.open, np.flatnonzero(self.is_open)
        joint = self._joint(known, rows)
        highest = np.full(len(rows), np.inf)
        if len(rows) > _FEW:
            highest = alone + self._ceilings(known)[rows] - joint
        ranked = np.argsort(-highest, kind="stable")
        tried: list[Found] = []
        for place in ranked:
            if tried and highest[place] < max(tried).information - _ROUNDING:
                break
            gram = full(known * self.kernels[int(rows[place])], self.target.samples)
            own = float(renyi.entropy(gram, self.alpha))
            tried.append(
                Found(alone + own - float(joint[place]), -int(candidates[place]), own, 0.0)
            )
        self.near = candidates[ranked[:_NEAR]]
        return max(tried)

    def _joint(self, known: Xp, rows: Ints) -> Floats:
        """Return S(Y, B, S, j) by row."""
        count = self.target.samples
        if not self.target.classes:
            both = known * self.labels
            grams = (full(both * self.kernels[int(row)], count) for row in rows)
            return np.array([float(renyi.entropy(gram, self.alpha)) for gram in grams])
        blocks, candidates = [], self.rows[rows]
        for kernels, pairs, members in zip(
            self.within, self.pairs, self.target.classes, strict=True
        ):
            blocks.append(full(kernels[candidates] * known[pairs], len(members)) / count)
        found: Floats = renyi.host(renyi.of_blocks(blocks, self.alpha))
        return found

    def _ceilings(self, known: Xp) -> Floats:
        """Return what no S(B, S, j) is above, by row."""
        xp = array_namespace(known)
        near = self.kernels[np.flatnonzero(np.isin(self.rows, self.near) & self.is_open)]
        mean = full(known * xp.mean(near, axis=0), self.target.samples)
        constant, slope = renyi.tangent(mean, self.alpha)
        traces = self.kernels @ (2 * known * above(slope)) + (constant + xp.linalg.trace(slope))
        found: Floats = renyi.host(renyi.ceiling(traces, self.alpha))
        return found
