"""What variables shall tell about, and kernels as the triangles above their diagonals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from . import _renyi as renyi

Ints = NDArray[np.int64]
Xp = Any  # an array of NumPy, PyTorch, CuPy, ...
Entropy = Callable[[Xp, float], tuple[Xp, float]]  # of a Gram matrix, with its error


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


def above(matrix: Xp) -> Xp:
    """Return what is above the diagonal: (..., N, N) -> (..., T)."""
    xp, count = array_namespace(matrix), matrix.shape[-1]
    flat = xp.reshape(matrix, (*matrix.shape[:-2], count * count))
    return xp.take(flat, xp.asarray(_upper(count), device=device(matrix)), axis=-1)


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


@lru_cache(maxsize=64)
def _upper(samples: int) -> Ints:
    """Return where the entries above the diagonal stand in a matrix: (T,)."""
    rows, columns = renyi.pairs(samples)
    return rows * samples + columns


@lru_cache(maxsize=64)  # of all samples, and of every class
def _places(samples: int) -> Ints:
    """Return where each entry of a matrix stands in its triangle, the diagonal after it: (N * N,)."""
    count = samples * (samples - 1) // 2
    places = np.full((samples, samples), count, np.int64)
    rows, columns = renyi.pairs(samples)
    places[rows, columns] = places[columns, rows] = np.arange(count)
    return places.ravel()


def _two(log: Xp, samples: int) -> Xp:
    """Return S_2 of log kernels: (..., T) -> (...)."""
    xp = array_namespace(log)
    squares = xp.sum(xp.exp(2 * xp.astype(log, xp.float64)), axis=-1)
    return -xp.log((samples + 2 * squares) / samples**2)
