"""Which variable adds most to a set: all of them by estimates, the best of those exactly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from array_api_compat import array_namespace, device

from onnxprune.core.contracts import Floats

from . import _renyi as renyi
from ._target import Ints, Target, Xp, above, full

_STEADY = 4  # slopes are made anew when this share (1 / _STEADY) more candidates are taken
_FORGET = 0.8  # of the error of estimates is remembered from step to step
_COMPACT = 0.7  # candidates are copied together when fewer than this share of rows are still open


class Found(NamedTuple):
    """A candidate and what the set with it holds; of two, the greater adds more, or comes first.

    Attributes:
        information: I(Y; B, S, j), in nats.
        before: minus its number.
        own: S(B, S, j), in nats.
        error: of the information.
    """

    information: float
    before: int
    own: float
    error: float


class Candidates:
    """Variables not taken yet, each with a row of numbers made from its kernel, (rows, T)."""

    def __init__(self, kernels: Xp) -> None:
        self.kernels = kernels  # those of closed ones stay until others are copied together
        self.rows = np.arange(kernels.shape[0], dtype=np.int64)  # candidate of each row
        self.is_open = np.ones(len(self.rows), np.bool_)

    @property
    def open(self) -> Ints:
        """The candidates not taken yet, ascending."""
        return self.rows[self.is_open]

    def close(self, candidate: int) -> None:
        """Take a candidate out."""
        self.is_open[self.rows == candidate] = False
        if self.is_open.sum() < _COMPACT * len(self.rows):
            self.kernels = self.kernels[np.flatnonzero(self.is_open)]
            self.rows = self.rows[self.is_open]
            self.is_open = np.ones(len(self.rows), np.bool_)

    def best(self, state: Xp) -> Found:
        """Return the open candidate that adds most to a set, given by its log kernel (T,)."""
        raise NotImplementedError


class Screened(Candidates):
    """Chooses by estimates, and compares the best of them exactly.

    The estimates are of I(Y; B, S, j) of all candidates j at once, as one matrix product: exact at
    alpha = 2. S_2 = -ln sum_ij K_ij^2 / N^2, and the squared kernel of a set with j is a product of
    squared kernels: a weighted sum of row j of the matrix of all squared kernels. At other alphas

        S_a(A_j) = S_a(M) + <G, A_j - M>,    G = dS_a / dA at M,    A_j = P o K_j / N,

    M the mean of all A_j, P the kernel of what is taken: a weighted sum of row j of all kernels. G
    follows as the set grows, not at each step: the ranks hardly change by it.
    """

    def __init__(self, logs: Xp, target: Target, alpha: float, shortlist: int) -> None:
        """Args: log kernels (C, T), Y, the order of the entropy, how many to compare (0: all)."""
        xp = array_namespace(logs)
        self.logs, self.target, self.alpha = logs, target, alpha
        self.power, self.shortlist = (2, 1) if alpha == 2 else (1, shortlist)
        super().__init__(xp.exp(self.power * logs))
        self.labels = xp.exp(self.power * xp.astype(target.log, xp.float64))
        self.total, self.due = len(self.rows), 0  # slopes are made anew when so many are taken
        self.margin = np.inf  # by how much differences of estimates were wrong of late

    def best(self, state: Xp) -> Found:
        """Try candidates from the highest estimate on, until the next is not likely to win.

        That is when no error of estimates as seen of late would let it.
        """
        xp = array_namespace(self.logs)
        candidates, margin = self.open, np.inf
        estimates = np.zeros(len(candidates))
        if screened := 0 < self.shortlist < len(candidates):
            estimates, margin = self.estimates(state), self.margin
        ranked = np.argsort(-estimates, kind="stable")[: self.shortlist or None]
        tried: list[Found] = []
        errors = [0.0]
        for place in ranked:
            ahead = float(estimates[ranked[0]] - estimates[place])
            if tried and max(tried).information > tried[0].information - ahead + margin:
                break
            candidate = int(candidates[place])
            with_it = state + xp.astype(self.logs[candidate], xp.float64)
            information, own, error = map(float, self.target.information(with_it, self.alpha))
            tried.append(Found(information, -candidate, own, error))
            errors.append(abs(tried[0].information - information - ahead))
        if screened:
            self.margin = max(*errors, _FORGET * margin if len(tried) < self.shortlist else 0.0)
        return max(tried)

    def estimates(self, state: Xp) -> Floats:
        """Return I(Y; B, S, j) of the open candidates j, but for a constant, in nats."""
        xp = array_namespace(state)
        known = xp.exp(self.power * state)
        if self.alpha == 2:
            sums = self._sums(known, known * self.labels)
            count = self.target.samples
            entropies = renyi.host(-xp.log((count + 2 * sums) / count**2))
        else:
            own, joint = self._slopes(known)
            sums = self._sums(known * own, known * self.labels * joint)
            entropies = renyi.host(2 / self.target.samples * sums)
        found: Floats = (entropies[:, 0] - entropies[:, 1])[self.is_open]
        return found

    def _sums(self, *weights: Xp) -> Xp:
        """Return sums over pairs of samples, of each row's kernel: float64, (rows, weights)."""
        xp = array_namespace(*weights)
        columns = xp.astype(xp.stack(weights, axis=1), self.kernels.dtype)
        return xp.astype(self.kernels @ columns, xp.float64)

    def _slopes(self, known: Xp) -> tuple[Xp, Xp]:
        """Return the slopes of S(Z) and S(Y, Z) above the diagonal, each (T,)."""
        taken = self.total - int(self.is_open.sum())
        if taken >= self.due:
            self.due = taken + max(1, taken // _STEADY)
            xp = array_namespace(known)
            share = xp.asarray(self.is_open / self.is_open.sum(), device=device(known))
            mean = known * xp.astype(
                xp.astype(share, self.kernels.dtype) @ self.kernels, known.dtype
            )
            samples, classes = self.target.samples, self.target.classes
            gram = full(mean, samples)
            both = gram if classes else full(mean * self.labels, samples)
            self.slopes = (
                above(renyi.slope(gram, self.alpha)),
                above(renyi.slope(both, self.alpha, classes)),
            )
        return self.slopes
