"""Inner products of centred Gram matrices between points, for one block of rows.

The rows X (n, d) of a point have the Gram matrix K = X X'. Each way returns P (L, L), whose
P_ij / sqrt(P_ii P_jj) is the CKA of points i and j:

* debiased: HSIC_1 of Song et al. 2012 (Nguyen, Raghu and Kornblith 2021 sum it over minibatches)
      n (n - 3) HSIC_1(K, L) = tr(K~ L~) + (1'K~1)(1'L~1) / ((n-1)(n-2)) - 2 / (n-2) 1'K~L~1 ,
  K~ = K with a zero diagonal, is the inner product of K~ centred so that rows still sum to zero
  without a diagonal: about 0 for independent rows, however few they are.
* biased: tr(HKH HLH), normalised within the block (Kornblith et al. 2019); near 1 for any features
  that are wider than the block has rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxprune.core.graph import Array

Floats = NDArray[np.float64]
LEAST = 4  # rows: HSIC_1 divides by n - 3


def gram(rows: Array) -> Floats:
    """Return K of rows less their mean, which no form depends on, but rounding: shape (n, n)."""
    centred = rows - rows.mean(axis=0)
    return np.asarray(centred @ centred.T, np.float64)


def debiased(rows: Sequence[Array]) -> Floats:
    """Return n (n - 3) HSIC_1 between all points; each of shape (n, d), n at least 4."""
    return _products([_without_diagonal(gram(x)) for x in rows])


def biased(rows: Sequence[Array]) -> Floats:
    """Return the CKA of one block between all points; 0 with a point that never moves."""
    products = _products([gram(x) for x in rows])  # centred rows: K is HKH already
    norms = np.sqrt(np.diagonal(products))
    norms[norms == 0] = np.inf
    result: Floats = products / norms[:, None] / norms
    return result


def _without_diagonal(kernel: Floats) -> Floats:
    """Centre a Gram matrix whose diagonal does not count; it is changed."""
    n = len(kernel)
    np.fill_diagonal(kernel, 0)
    mean = kernel.sum(axis=0) / (n - 2)
    mean -= mean.sum() / (2 * (n - 1))
    kernel -= mean
    kernel -= mean[:, None]
    np.fill_diagonal(kernel, 0)
    return kernel


def _products(kernels: Sequence[Floats]) -> Floats:
    flat = np.stack([kernel.ravel() for kernel in kernels])
    return np.asarray(flat @ flat.T, np.float64)
