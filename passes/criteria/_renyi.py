"""Matrix-based Renyi entropy: information between variables, from kernels between samples alone.

A variable seen in N samples is its Gram matrix K, N x N with unit diagonal (an infinitely divisible
kernel). With A = K / N and eigenvalues l_i of A,

    S_a(K) = 1 / (1 - a) ln sum_i l_i^a,        S_a(X, Y) = S_a(K_x o K_y),
    I_a(X; Y) = S_a(X) + S_a(Y) - S_a(X, Y),    0 <= S_a <= ln N

(Sanchez Giraldo, Rao, Principe 2014; several variables: Yu et al. 2019). In nats. The functions take
arrays of any library of the array API standard and work on stacks of matrices, shape (..., N, N).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from array_api_compat import array_namespace, to_device
from numpy.typing import NDArray

from onnxprune.core.contracts import Floats

Xp = Any  # an array of NumPy, PyTorch, CuPy, ...

_TINY = 1e-300


def host(array: Xp) -> NDArray[Any]:
    """Return an array of any library and device as one of NumPy."""
    return np.asarray(to_device(array, "cpu"))


@lru_cache(maxsize=64)
def pairs(samples: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows and columns above the diagonal of an N x N matrix: each (N (N - 1) / 2,)."""
    return np.triu_indices(samples, 1)


def squared_distances(values: Xp) -> Xp:
    """Return |x_i - x_j|^2 between samples: (..., N, d) -> (..., N, N), diagonal exactly zero."""
    xp = array_namespace(values)
    centred = values - xp.mean(values, axis=-2, keepdims=True)  # less cancels
    products = centred @ xp.matrix_transpose(centred)
    norms = xp.linalg.diagonal(products)  # of the same rounding: n + n - 2 n is zero
    distances = norms[..., :, None] + norms[..., None, :] - 2 * products
    return xp.clip(distances, 0, None)


def silverman(samples: int, dimension: int, factor: float = 5.0) -> float:
    """Return the kernel width h N^(-1 / (4 + d)) of the CMI paper (h = 5)."""
    return float(factor * samples ** (-1.0 / (4 + dimension)))


def median_width(distances: Floats) -> float:
    """Return the width at which the kernel of a median pair is e^-1: median |x_i - x_j| / sqrt 2.

    Args:
        distances: squared distances, shape (N, N).
    """
    apart = distances[pairs(len(distances))]
    return float(np.sqrt(np.median(apart) / 2)) if len(apart) else 0.0


def neighbour_width(distances: Floats, neighbours: int = 5) -> float:
    """Return the root mean squared distance to the nearest samples (kNN rule)."""
    count = min(neighbours, len(distances) - 1)
    nearest = np.sort(distances, axis=1)[:, 1 : count + 1]
    return float(np.sqrt(nearest.mean())) if count else 0.0


def gaussian(distances: Xp, width: float) -> Xp:
    """Return exp(-d / (2 width^2)) of squared distances; all ones where the width is zero."""
    xp = array_namespace(distances)
    return xp.exp(-distances / (2 * width * width)) if width > 0 else xp.ones_like(distances)


def indicator(labels: NDArray[Any]) -> Floats:
    """Return the kernel of classes: 1 where labels are equal, else 0; shape (N, N)."""
    return np.asarray(labels[:, None] == labels[None, :], np.float64)


def entropy(gram: Xp, alpha: float) -> Xp:
    """Return S_a in nats of Gram matrices with unit diagonal: (..., N, N) -> (...).

    alpha = 2 is -ln sum K^2 / N^2, alpha = 3 takes one product of matrices, any other the symmetric
    eigenvalues; alpha = 1 is the limit, von Neumann's entropy.
    """
    xp = array_namespace(gram)
    count = gram.shape[-1]
    scaled = gram / count
    if alpha == 2:
        return -xp.log(xp.sum(scaled * scaled, axis=(-2, -1)))
    if alpha == 3:
        return -0.5 * xp.log(xp.sum((scaled @ scaled) * scaled, axis=(-2, -1)))
    return of_spectrum(xp.linalg.eigvalsh(scaled), alpha)


def of_spectrum(values: Xp, alpha: float) -> Xp:
    """Return S_a in nats of eigenvalues that sum to one: (..., N) -> (...)."""
    xp = array_namespace(values)
    rounding = xp.finfo(values.dtype).eps * values.shape[-1]  # what zeros come out as
    positive = xp.where(values > rounding, values, 0 * values)
    if alpha == 1:
        return -xp.sum(positive * xp.log(positive + _TINY), axis=-1)
    return xp.log(xp.sum(positive**alpha, axis=-1)) / (1 - alpha)


def entropy_in_classes(gram: Xp, classes: Sequence[NDArray[np.int64]], alpha: float) -> Xp:
    """Return S_a of K o K_y for the indicator kernel of classes, from one small matrix per class.

    The product is block-diagonal in the order of classes: its spectrum is the union of the blocks'.

    Args:
        gram: shape (..., N, N), unit diagonal.
        classes: the samples of each class.
        alpha: order of the entropy.
    """
    xp = array_namespace(gram)
    count = gram.shape[-1]
    blocks = [gram[..., rows[:, None], rows[None, :]] / count for rows in classes]
    if alpha == 2:
        return -xp.log(sum(xp.sum(b * b, axis=(-2, -1)) for b in blocks))
    return of_blocks(blocks, alpha)


def of_blocks(blocks: Sequence[Xp], alpha: float) -> Xp:
    """Return S_a in nats of block-diagonal matrices of trace one, from their blocks (..., n, n)."""
    xp = array_namespace(*blocks)
    return of_spectrum(xp.concat([xp.linalg.eigvalsh(b) for b in blocks], axis=-1), alpha)


def tangent(gram: Xp, alpha: float, classes: Sequence[NDArray[np.int64]] = ()) -> tuple[float, Xp]:
    """Return c and G, such that c + <G, K> is the tangent of tr f(K / N) at `gram`, and never above it.

    f(x) is x^a, at a = 1 x ln x, from which S_a follows. As f is convex (Klein's inequality),

        tr f(A) >= tr f(M) + tr f'(M) (A - M),      A = K / N,  M = `gram` / N.

    Args:
        gram: unit diagonal.
        alpha: order of the entropy, at least 1.
        classes: as of `entropy_in_classes`: the tangent of tr f(K o K_y / N); G is zero between them.
    """
    xp = array_namespace(gram)
    constant, slope = 0.0, xp.zeros_like(gram)
    blocks: list[Any] = [(rows[:, None], rows[None, :]) for rows in classes]
    for block in blocks or [...]:
        values, vectors = _eigen(gram[block] / gram.shape[-1])
        if alpha == 1:
            heights, rates = values * xp.log(values), xp.log(values) + 1
        else:
            heights, rates = values**alpha, alpha * values ** (alpha - 1)
        constant += float(xp.sum(heights - values * rates))
        slope[block] = (vectors * (rates / gram.shape[-1])) @ xp.matrix_transpose(vectors)
    return constant, slope


def added(
    gram: Xp, labels: Xp, alpha: float, classes: Sequence[NDArray[np.int64]] = ()
) -> tuple[float, Xp]:
    """Return c and G, such that tr f(K / N) - tr f(K o K_y / N) is never below c + <G, K>.

    f as of `tangent`; c + <G, K> is the tangent of the difference at `gram`. The error of the tangent
    of tr f at M, B(A, M) = tr f(A) - tr f(M) - tr f'(M) (A - M), does not grow under maps that keep
    trace and identity, as the product with K_y does: for a = 1 it is the relative entropy. Else B
    integrates its second derivative, of which the inverse in an eigenbasis is, but for a constant,

        (x - y) / (x^s - y^s) = 1/s integral_0^1 m_u^(1 - s) du,   m_u = (u x^s + (1 - u) y^s)^(1/s),

    s = a - 1: powers up to one of power means, which are operator means for s up to one. So it is
    monotone (Petz, Monotone metrics on matrix spaces, 1996), and so is B.

    Args:
        gram: M, unit diagonal.
        labels: K_y, unit diagonal.
        alpha: order of the entropy, from 1 to 2.
        classes: as of `entropy_in_classes`, if K_y is of classes.
    """
    own, slope = tangent(gram, alpha)
    joint, more = tangent(gram * labels, alpha, classes)
    return own - joint, slope - more * labels


def most(trace: Xp, joint: float, alpha: float) -> Xp:
    """Return what S(Z) - S(Y, Z) is not above, given a value of `added` and S(Y, Z) or less.

    It is not above zero, and falls as S(Y, Z) grows.
    """
    xp = array_namespace(trace)
    trace = xp.clip(trace, 0, None)
    if alpha == 1:
        return -trace
    return -xp.log1p(trace * float(np.exp((alpha - 1) * joint))) / (alpha - 1)


def slope(gram: Xp, alpha: float, classes: Sequence[NDArray[np.int64]] = ()) -> Xp:
    """Return dS_a / dA at A = K / N, up to a multiple of the identity: (N, N) -> (N, N).

    a / (1 - a) A^(a - 1) / tr A^a, at a = 1 -ln A. S_a of any other matrix of the same trace is at most
    S_a + <slope, difference>, to first order in what is in the logarithm: x^a is convex (a > 1).

    Args:
        gram: unit diagonal.
        alpha: order of the entropy.
        classes: as of `entropy_in_classes`: the slope of S_a(K o K_y), zero between classes.
    """
    xp = array_namespace(gram)
    count = gram.shape[-1]
    result, total = xp.zeros_like(gram), 0.0
    for rows in classes or (np.arange(count),):
        block = rows[:, None], rows[None, :]
        values, vectors = _eigen(gram[block] / count)
        rates = -xp.log(values) if alpha == 1 else alpha / (1 - alpha) * (values ** (alpha - 1) - 1)
        result[block] = (vectors * rates) @ xp.matrix_transpose(vectors)
        total += float(xp.sum(values**alpha))
    return result / total


def _eigen(matrix: Xp) -> tuple[Xp, Xp]:
    """Return eigenvalues, none below rounding, and eigenvectors."""
    xp = array_namespace(matrix)
    values, vectors = xp.linalg.eigh(matrix)
    rounding = xp.finfo(matrix.dtype).eps * matrix.shape[-1]
    return xp.where(values > rounding, values, 0 * values + rounding), vectors
