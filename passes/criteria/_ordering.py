"""Greedy order of variables by joint information with a target (CMI paper, Algorithm 1).

A variable c is kept as the logarithm of its Gaussian kernel above the diagonal, L_c, float32, shape
(T,), T = N (N - 1) / 2; the kernel of a set is exp(sum of L_c). Step i takes

    j* = argmax_j I(Y; B, S, j)        and notes        CMI_i = I(Y; R | B, S).

S and R together are always the whole layer F, so CMI_i = I(Y; B, F) - I(Y; B, S): the curve costs
nothing beyond the order. At alpha = 2 all candidates of a step are two columns of one matrix product;
other alphas look at the best `shortlist` of those with exact eigenvalues.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from onnxprune.core.contracts import Floats

from . import _renyi as renyi

Ints = NDArray[np.int64]
Xp = Any  # an array of NumPy, PyTorch, CuPy, ...

_COMPACT = 0.7  # candidates are copied together when fewer than this share of rows are still open


@dataclasses.dataclass(frozen=True)
class Target:
    """The variable that channels shall tell about.

    Attributes:
        log: logarithm of its kernel above the diagonal, shape (T,); -inf between classes.
        samples: N.
        classes: the samples of each class, if it is one of classes.
    """

    log: Xp
    samples: int
    classes: tuple[Ints, ...] = ()

    def entropy(self, alpha: float) -> float:
        """Return S_a(Y)."""
        return float(renyi.entropy(square(self.log, self.samples), alpha))

    def information(self, logs: Xp, alpha: float) -> tuple[Xp, Xp]:
        """Return I_a(Y; Z) and S_a(Z) of sets Z given by their log kernels: (..., T) -> (...)."""
        if alpha == 2:
            own, joint = (_two(log, self.samples) for log in (logs, logs + self.log))
            return _two(self.log, self.samples) + own - joint, own
        grams = square(logs, self.samples)
        own = renyi.entropy(grams, alpha)
        if self.classes:
            joint = renyi.entropy_in_classes(grams, list(self.classes), alpha)
        else:
            joint = renyi.entropy(grams * square(self.log, self.samples), alpha)
        return self.entropy(alpha) + own - joint, own


@dataclasses.dataclass(frozen=True)
class Ordering:
    """Variables from most to least informative.

    Attributes:
        order: int64, shape (C,).
        joint: float64, shape (C,): I(Y; B, S) after each step, in nats.
        filled: float64, shape (C,): S(B, S) / ln N after each step; near 1 the kernel tells all
            samples apart and nothing that follows is informative.
    """

    order: Ints
    joint: Floats
    filled: Floats

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
    rows, columns = np.triu_indices(samples, 1)
    gram = xp.zeros((*log.shape[:-1], samples, samples), dtype=xp.float64, device=device(log))
    kernel = xp.exp(xp.astype(log, xp.float64))
    gram[..., rows, columns] = kernel
    gram[..., columns, rows] = kernel
    diagonal = np.arange(samples)
    gram[..., diagonal, diagonal] = 1.0
    return gram


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
        shortlist: candidates per step, best at alpha = 2, that are compared at `alpha`; 0: all.
    """
    xp = array_namespace(logs)
    state = xp.zeros(logs.shape[-1], dtype=xp.float64, device=device(logs))
    state = state if base is None else state + base
    screen = _Screen(logs, target)
    order, joint, filled = [], [], []
    for _ in range(logs.shape[0]):
        chosen, information, own = _best(logs, screen, state, target, alpha, shortlist)
        state = state + xp.astype(logs[chosen], xp.float64)
        screen.close(chosen)
        order.append(chosen)
        joint.append(information)
        filled.append(own / np.log(target.samples))
    return Ordering(np.array(order, np.int64), np.array(joint), np.array(filled))


def _best(
    logs: Xp, screen: _Screen, state: Xp, target: Target, alpha: float, shortlist: int
) -> tuple[int, float, float]:
    """Return the candidate that adds most, the information with it, and the entropy."""
    xp = array_namespace(logs)
    if alpha == 2:
        best = int(screen.open[int(np.argmax(screen.at_two(state)))])
        information, own = target.information(state + xp.astype(logs[best], xp.float64), 2)
        return best, float(information), float(own)
    candidates = screen.open
    if shortlist and shortlist < len(candidates):
        ranked = np.argsort(-screen.at_two(state), kind="stable")
        candidates = np.sort(candidates[ranked[:shortlist]])
    found = [
        target.information(state + xp.astype(logs[int(c)], xp.float64), alpha) for c in candidates
    ]
    values = np.array([float(information) for information, _ in found])
    best = int(np.argmax(values))
    return int(candidates[best]), float(values[best]), float(found[best][1])


class _Screen:
    """I_2(Y; B, S, j) of all candidates j at once, as one matrix product.

    S_2 = -ln sum_ij K_ij^2 / N^2, and the squared kernel of a set with j is a product of squared
    kernels: a weighted sum of row j of the matrix of all squared kernels.
    """

    def __init__(self, logs: Xp, target: Target) -> None:
        xp = array_namespace(logs)
        self.target = target
        self.squares = xp.exp(2 * logs)  # (rows, T); closed rows stay until copied together
        self.labels = xp.exp(2 * xp.astype(target.log, xp.float64))
        self.rows = np.arange(logs.shape[0], dtype=np.int64)  # candidate of each row
        self.is_open = np.ones(len(self.rows), np.bool_)

    @property
    def open(self) -> Ints:
        """The candidates not taken yet, ascending."""
        return self.rows[self.is_open]

    def close(self, candidate: int) -> None:
        """Take a candidate out."""
        self.is_open[self.rows == candidate] = False
        if self.is_open.sum() < _COMPACT * len(self.rows):
            self.squares = self.squares[np.flatnonzero(self.is_open)]
            self.rows = self.rows[self.is_open]
            self.is_open = np.ones(len(self.rows), np.bool_)

    def at_two(self, state: Xp) -> Floats:
        """Return S_2(B, S, j) - S_2(Y, B, S, j), which ranks like I_2, of the open candidates j."""
        xp = array_namespace(state)
        squared = xp.exp(2 * state)
        weights = xp.stack([squared, squared * self.labels], axis=1)
        sums = self.squares @ xp.astype(weights, self.squares.dtype)
        count = self.target.samples
        both = np.asarray(-xp.log((count + 2 * xp.astype(sums, xp.float64)) / count**2))
        found: Floats = (both[:, 0] - both[:, 1])[self.is_open]
        return found
