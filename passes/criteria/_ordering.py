"""Greedy order of variables by joint information with a target (CMI paper, Algorithm 1).

A variable c is kept as the logarithm of its Gaussian kernel above the diagonal, L_c, float32, shape
(T,), T = N (N - 1) / 2; the kernel of a set is exp(sum of L_c). Step i takes

    j* = argmax_j I(Y; B, S, j)        and notes        CMI_i = I(Y; R | B, S).

S and R together are always the whole layer F, so CMI_i = I(Y; B, F) - I(Y; B, S): the curve costs
nothing beyond the order. At alpha = 2 all candidates of a step are two columns of one matrix product.
At other alphas one such product ranks them, to first order about the mean of all candidates, and the
best `shortlist` are compared with exact eigenvalues.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from onnxprune.core.contracts import Floats

from . import _renyi as renyi

Ints = NDArray[np.int64]
Xp = Any  # an array of NumPy, PyTorch, CuPy, ...
Entropy = Callable[[Xp, float], tuple[Xp, float]]  # of a Gram matrix, with its error

_STEADY = 4  # slopes are made anew when this share (1 / _STEADY) more candidates are taken
_FORGET = 0.8  # of the error of estimates is remembered from step to step
_COMPACT = 0.7  # candidates are copied together when fewer than this share of rows are still open


def exact(gram: Xp, alpha: float) -> tuple[Xp, float]:
    """Return S_a, and no error."""
    return renyi.entropy(gram, alpha), 0.0


@dataclasses.dataclass(frozen=True)
class Target:
    """The variable that channels shall tell about.

    Attributes:
        log: logarithm of its kernel above the diagonal, shape (T,); -inf between classes.
        samples: N.
        classes: the samples of each class, if it is one of classes.
        estimate: gives entropies of N x N; smaller ones, its own and those at alpha 2 are exact.
        known: its own entropies, by alpha.
    """

    log: Xp
    samples: int
    classes: tuple[Ints, ...] = ()
    estimate: Entropy = exact
    known: dict[float, float] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def entropy(self, alpha: float) -> float:
        """Return S_a(Y)."""
        if alpha not in self.known:
            self.known[alpha] = float(renyi.entropy(square(self.log, self.samples), alpha))
        return self.known[alpha]

    def information(self, logs: Xp, alpha: float) -> tuple[Xp, Xp, float]:
        """Return I_a(Y; Z) and S_a(Z) of a set Z given by its log kernel (T,), and the first's error."""
        if alpha == 2:
            own, joint = (_two(log, self.samples) for log in (logs, logs + self.log))
            return self.entropy(2) + own - joint, own, 0.0
        gram = square(logs, self.samples)
        own, error = self.estimate(gram, alpha)
        if self.classes:
            joint = renyi.entropy_in_classes(gram, self.classes, alpha)
        else:
            joint, more = self.estimate(gram * square(self.log, self.samples), alpha)
            error += more
        return self.entropy(alpha) + own - joint, own, error


@dataclasses.dataclass(frozen=True)
class Ordering:
    """Variables from most to least informative.

    Attributes:
        order: int64, shape (C,).
        joint: float64, shape (C,): I(Y; B, S) after each step, in nats.
        filled: float64, shape (C,): S(B, S) / ln N after each step; near 1 the kernel tells all
            samples apart and nothing that follows is informative.
        error: float64, shape (C,): of `joint`, in nats; zero where entropies are exact.
    """

    order: Ints
    joint: Floats
    filled: Floats
    error: Floats

    @property
    def cmi(self) -> Floats:
        """I(Y; R | B, S) after each step, in nats; the last is zero."""
        missing: Floats = self.joint[-1] - self.joint
        return missing


def above(matrix: Xp) -> Xp:
    """Return what is above the diagonal: (..., N, N) -> (..., T)."""
    rows, columns = np.triu_indices(matrix.shape[-1], 1)
    return matrix[..., rows, columns]


def square(log: Xp, samples: int) -> Xp:
    """Return Gram matrices of log kernels: (..., T) -> (..., N, N), unit diagonal, float64."""
    xp = array_namespace(log)
    return full(xp.exp(xp.astype(log, xp.float64)), samples)


def full(kernel: Xp, samples: int, diagonal: float = 1.0) -> Xp:
    """Return symmetric matrices from what is above their diagonal: (..., T) -> (..., N, N)."""
    xp = array_namespace(kernel)
    last = xp.zeros((*kernel.shape[:-1], 1), dtype=kernel.dtype, device=device(kernel)) + diagonal
    places = xp.asarray(_places(samples), device=device(kernel))
    matrix = xp.take(xp.concat([kernel, last], axis=-1), places, axis=-1)
    return xp.reshape(matrix, (*kernel.shape[:-1], samples, samples))


@lru_cache(maxsize=4)
def _places(samples: int) -> Ints:
    """Return where each entry of a matrix stands in its triangle, the diagonal after it: (N * N,)."""
    count = samples * (samples - 1) // 2
    places = np.full((samples, samples), count, np.int64)
    rows, columns = np.triu_indices(samples, 1)
    places[rows, columns] = places[columns, rows] = np.arange(count)
    return places.ravel()


def _two(log: Xp, samples: int) -> Xp:
    """Return S_2 of log kernels: (..., T) -> (...)."""
    xp = array_namespace(log)
    squares = xp.sum(xp.exp(2 * xp.astype(log, xp.float64)), axis=-1)
    return -xp.log((samples + 2 * squares) / samples**2)


def ordered(
    logs: Xp, target: Target, base: Xp | None = None, *, alpha: float = 1.01, shortlist: int = 8
) -> Ordering:
    """Order variables by joint information with the target.

    Args:
        logs: log kernels, shape (C, T).
        target: the variable Y.
        base: log kernel of the conditioning set B, shape (T,); None: the empty set.
        alpha: order of the entropy.
        shortlist: candidates per step, best to first order, that are compared exactly; 0: all.
    """
    xp = array_namespace(logs)
    state = xp.zeros(logs.shape[-1], dtype=xp.float64, device=device(logs))
    state = state if base is None else state + base
    screen = _Screen(logs, target, alpha)
    order, joint, filled, errors = [], [], [], []
    for _ in range(logs.shape[0]):
        chosen, information, own, error = _best(logs, screen, state, target, alpha, shortlist)
        state = state + xp.astype(logs[chosen], xp.float64)
        screen.close(chosen)
        order.append(chosen)
        joint.append(information)
        filled.append(own / np.log(target.samples))
        errors.append(error)
    return Ordering(np.array(order, np.int64), *map(np.array, (joint, filled, errors)))


def _best(
    logs: Xp, screen: _Screen, state: Xp, target: Target, alpha: float, shortlist: int
) -> tuple[int, float, float, float]:
    """Return the candidate that adds most, the information with it, the entropy, and the error.

    Candidates are tried from the highest estimate on, until no error of estimates as seen of late
    would let the next one win.
    """
    xp = array_namespace(logs)
    candidates, count = screen.open, 1 if alpha == 2 else shortlist
    estimates, margin = np.zeros(len(candidates)), np.inf
    if screened := 0 < count < len(candidates):
        estimates, margin = screen.estimates(state), screen.margin
    ranked = np.argsort(-estimates, kind="stable")[: count or None]
    tried: list[tuple[int, float, float, float]] = []
    errors = [0.0]
    for place in ranked:
        ahead = float(estimates[ranked[0]] - estimates[place])
        if tried and max(tried, key=_information)[1] > tried[0][1] - ahead + margin:
            break
        candidate = int(candidates[place])
        with_it = state + xp.astype(logs[candidate], xp.float64)
        information, own, error = (float(value) for value in target.information(with_it, alpha))
        tried.append((candidate, information, own, error))
        errors.append(abs(tried[0][1] - information - ahead))
    if screened:
        screen.margin = max(*errors, _FORGET * margin if len(tried) < count else 0.0)
    return max(tried, key=_information)


def _information(tried: tuple[int, float, float, float]) -> tuple[float, int]:
    return tried[1], -tried[0]


class _Screen:
    """I(Y; B, S, j) of all candidates j at once, as one matrix product: exact at alpha = 2.

    S_2 = -ln sum_ij K_ij^2 / N^2, and the squared kernel of a set with j is a product of squared
    kernels: a weighted sum of row j of the matrix of all squared kernels. At other alphas

        S_a(A_j) = S_a(M) + <G, A_j - M>,    G = dS_a / dA at M,    A_j = P o K_j / N,

    M the mean of all A_j, P the kernel of what is taken: a weighted sum of row j of all kernels. G
    follows as the set grows, not at each step: the ranks hardly change by it.
    """

    def __init__(self, logs: Xp, target: Target, alpha: float) -> None:
        xp = array_namespace(logs)
        self.target, self.alpha = target, alpha
        self.power = 2 if alpha == 2 else 1
        self.kernels = xp.exp(
            self.power * logs
        )  # (rows, T); closed ones stay until copied together
        self.labels = xp.exp(self.power * xp.astype(target.log, xp.float64))
        self.rows = np.arange(logs.shape[0], dtype=np.int64)  # candidate of each row
        self.is_open = np.ones(len(self.rows), np.bool_)
        self.total, self.due = len(self.rows), 0  # slopes are made anew when so many are taken
        self.margin = np.inf  # by how much differences of estimates were wrong of late

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
