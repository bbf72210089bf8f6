"""The candidate that adds most to a set, proved to be so from few eigenvalues of N x N matrices.

With a candidate j a set tells I(Y; B, S, j) = S(Y) + S(B, S, j) - S(Y, B, S, j). A tangent bounds the
difference of the last two from above (`_renyi.added`): one sum over the kernel of j, and what the set
holds without j; more closely with the exact last term, which is cheap where Y are classes: small
blocks. Candidates are tried from the highest bound on, until the next is below what was found: the
rest cannot win. So the order is that of all candidates compared exactly.
"""

from __future__ import annotations

import numpy as np
from array_api_compat import array_namespace, device

from onnxprune.core.contracts import Floats

from . import _renyi as renyi
from ._candidates import Candidates, Found
from ._target import Target, Xp, above, full, square

_FEW = 5  # so many have their eigenvalues sooner than a tangent
_APART = 1e-9  # of the identity in the matrix of the tangent: its eigenvalues are above rounding
_ROUNDING = 1e-9  # nats


class Proven(Candidates):
    """Chooses among all candidates by bounds, at alpha from 1 to 2."""

    def __init__(self, logs: Xp, target: Target, alpha: float) -> None:
        """Args: log kernels (C, T), Y, the order of the entropy."""
        xp = array_namespace(logs)
        super().__init__(xp.exp(xp.astype(logs, xp.float64)))
        self.target, self.alpha = target, alpha
        self.labels = square(target.log, target.samples)
        self.joint: dict[int, float] = {}  # of the candidates tried last
        self.least = target.entropy(alpha)  # S(Y, B, S) is no less: it grows with S

    def close(self, candidate: int) -> None:
        """Take a candidate out."""
        super().close(candidate)
        self.least = self.joint.get(candidate, self.least)

    def best(self, state: Xp) -> Found:
        """Try candidates from the highest bound on, until the next is too low to win."""
        xp = array_namespace(state)
        known, alone = xp.exp(state), self.target.entropy(self.alpha)
        candidates, rows = self.open, np.flatnonzero(self.is_open)
        traces = self._traces(known)[rows] if len(rows) > _FEW else None
        highest = np.full(len(rows), np.inf)
        if traces is not None:
            highest = alone + renyi.most(traces, self.least, self.alpha)
        tried: list[Found] = []
        self.joint = {}
        for place in np.argsort(-highest, kind="stable"):
            needed = max(tried).information - _ROUNDING if tried else -np.inf
            if highest[place] < needed:
                break
            gram = full(known * self.kernels[int(rows[place])], self.target.samples)
            joint = self._joint(gram)
            if traces is not None and alone + renyi.most(traces[place], joint, self.alpha) < needed:
                continue
            own, candidate = float(renyi.entropy(gram, self.alpha)), int(candidates[place])
            tried.append(Found(alone + own - joint, -candidate, own, 0.0))
            self.joint[candidate] = joint
        return max(tried)

    def _joint(self, gram: Xp) -> float:
        """Return S(Y, Z) of a set Z."""
        if self.target.classes:
            return float(renyi.entropy_in_classes(gram, self.target.classes, self.alpha))
        return float(renyi.entropy(gram * self.labels, self.alpha))

    def _traces(self, known: Xp) -> Floats:
        """Return values, by row, of the tangent at the mean of all that are open."""
        xp = array_namespace(known)
        share = (1 - _APART) * self.is_open / self.is_open.sum()
        mean = known * (xp.asarray(share, device=device(known)) @ self.kernels)
        constant, slope = renyi.added(
            full(mean, self.target.samples), self.labels, self.alpha, self.target.classes
        )
        traces = self.kernels @ (2 * known * above(slope)) + (constant + xp.linalg.trace(slope))
        found: Floats = renyi.host(traces)
        return found
