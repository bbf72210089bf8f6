"""Matrix-based Renyi entropy of large Gram matrices, approximately, and how wrong it may be.

Eigenvalues of N x N cost O(N^3): these pay from about a thousand samples on. Both work in NumPy.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
from numpy.polynomial import Chebyshev
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

from onnxprune.core.contracts import Floats
from onnxprune.core.errors import OnnxPruneError

from ._renyi import Xp, entropy, host, of_spectrum
from ._target import Entropy, exact

Method = Literal["exact", "low-rank", "stochastic"]
_SEED = 0


def estimator(method: Method, eigenvalues: int, vectors: int) -> Entropy:
    """Return what gives entropies by a method, from so many eigenvalues or random vectors."""
    approximate: dict[Method, Entropy] = {
        "low-rank": partial(low_rank_entropy, rank=eigenvalues),
        "stochastic": partial(stochastic_entropy, vectors=vectors),
    }
    return approximate.get(method, exact)


def refuse(method: Method, alpha: float) -> None:
    """Refuse a method where it makes no sense.

    Raises:
        OnnxPruneError: if the order needs no approximation, or its own does not bear one.
    """
    if method != "exact" and alpha in {2, 3}:
        raise OnnxPruneError(
            f"entropy={method}: at alpha={alpha:g} the entropy has a closed form: leave it out, or give "
            "another alpha, such as 1.01"
        )
    if method == "stochastic" and alpha <= 1:
        raise OnnxPruneError(f"entropy=stochastic: expected alpha above 1, found {alpha:g}")


def low_rank_entropy(gram: Xp, alpha: float, *, rank: int) -> tuple[float, float]:
    """Return S_a from the `rank` largest eigenvalues, and a bound of its error (Dong et al. 2023).

    The rest of the trace is spread evenly over the other eigenvalues, which is the largest entropy
    that it can have; the smallest is with as few as can be, none above the last known. Where the
    largest are too alike for Lanczos iterations to tell, all are computed, and the bound is zero.

    Args:
        gram: shape (N, N), unit diagonal.
        alpha: order of the entropy.
        rank: eigenvalues taken, below N.

    Raises:
        OnnxPruneError: if there are not as many samples.
    """
    matrix = host(gram)
    count = len(matrix)
    if rank >= count:
        raise OnnxPruneError(
            f"{rank} eigenvalues of {count} samples: ask for fewer, or give more --data"
        )
    start = np.random.default_rng(_SEED).standard_normal(count)
    try:
        found = eigsh(matrix / count, k=rank, which="LA", v0=start, return_eigenvectors=False)
    except ArpackNoConvergence:
        return float(entropy(matrix, alpha)), 0.0
    top = np.clip(found, 0.0, None)
    rest = max(1.0 - float(top.sum()), 0.0)
    even = rest / (count - rank)
    most = max(float(top.min()), even, np.finfo(np.float64).tiny)
    packed = np.append(np.full(int(rest / most), most), rest % most)
    high = float(of_spectrum(np.append(top, np.full(count - rank, even)), alpha))
    low = float(of_spectrum(np.concatenate([top, packed]), alpha))
    return high, abs(high - low)


def stochastic_entropy(
    gram: Xp, alpha: float, *, vectors: int = 32, degree: int = 40, seed: int = _SEED
) -> tuple[float, float]:
    """Return S_a by Hutchinson's trace estimate of A^a, and its standard error.

    A^a is applied to random signs z as a Chebyshev series on [0, u], u the largest row sum of A
    (Dong, Gong, Yu, Li 2022): products with A only, O(N^2 vectors degree). What z' A z misses of
    tr A = 1 tells most of what z' A^a z misses: a control variate. The error given has also what
    the second half of the series changes.

    Args:
        gram: shape (N, N), unit diagonal.
        alpha: order of the entropy, above 1.
        vectors: of random signs, three or more.
        degree: of the series.
        seed: of the vectors.
    """
    matrix = host(gram) / gram.shape[-1]
    count = len(matrix)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (count, vectors))
    known = (signs * (matrix @ signs)).sum(axis=0)
    traces = _series(matrix, signs, alpha, degree)
    half, trace = (_controlled(each, known) for each in (traces[degree // 2], traces[degree]))
    error = trace[1] + abs(trace[0] - half[0])
    least, most = sorted((1.0, float(count) ** (1 - alpha)))
    value = min(max(trace[0], least), most)
    return float(np.log(value) / (1 - alpha)), float(abs(error / value / (1 - alpha)))


def _series(matrix: Floats, signs: Floats, alpha: float, degree: int) -> Floats:
    """Return z' p(A) z by vector, p of each degree up to `degree`, p(0) = 0: (degree + 1, vectors)."""
    top = float(np.abs(matrix).sum(axis=1).max())
    factors = Chebyshev.interpolate(lambda t: (top * (t + 1) / 2) ** alpha, degree).coef
    before, now = signs, 2 / top * (matrix @ signs) - signs
    terms = [(signs * signs).sum(axis=0)]
    for _ in range(degree):
        terms.append((signs * now).sum(axis=0))
        before, now = now, 2 * (2 / top * (matrix @ now) - now) - before
    at_zero = (-1.0) ** np.arange(degree + 1)  # of the polynomials; most eigenvalues are near it
    weighted = factors[:, None] * (np.array(terms) - at_zero[:, None] * len(matrix))
    return np.asarray(weighted.cumsum(axis=0))


def _controlled(traces: Floats, known: Floats) -> tuple[float, float]:
    """Return the mean less what `known`, of mean 1, explains of it, and its standard error."""
    apart: NDArray[np.float64] = known - known.mean()
    square = float(apart @ apart)
    slope = float(apart @ traces) / square if square > 0 else 0.0
    corrected = traces - slope * (known - 1)
    return float(corrected.mean()), float(corrected.std(ddof=2) / np.sqrt(len(traces)))
