"""SparseGPT: zeros chosen and made up for column by column (Frantar and Alistarh, arXiv 2301.00774).

With H = E[x x^T] + damping * mean(diag H) and U upper triangular, U^T U = H^-1, columns j go from first
to last. Setting W_ij to zero costs (W_ij / U_jj)^2 of the squared output error, and the best change of
the columns that are still free is

    W_i,k -= W_ij / U_jj U_jk ,   k > j .

Which weights go is chosen a stretch of columns ahead, among all rows for shares (as in the paper's
code) and in every row for N:M. The columns beyond the stretch are updated by one product.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, cholesky

from onnxprune.core.contracts import Floats
from onnxprune.core.errors import InternalError
from onnxprune.core.sparsity import SPARSIFIERS, Bools, Layer, Pattern, lowest

_STRETCH = 128  # columns, as in the paper


@dataclasses.dataclass(frozen=True)
class SparseGpt:
    """Drops the weights that can best be made up for, and makes up for them.

    Attributes:
        damping: added to the diagonal of H, relative to its mean.
    """

    damping: float = 0.01
    needs: ClassVar[frozenset[str]] = frozenset({"second"})

    def apply(self, layer: Layer, pattern: Pattern) -> tuple[Floats, Bools]:
        """Return new weights, and which are zero."""
        if layer.second is None:
            raise InternalError("sparsegpt needs second moments")
        order, free = _order(pattern, layer)
        result, zeros = np.empty_like(layer.weight), np.zeros(layer.weight.shape, np.bool_)
        mean = layer.second.mean
        hessians = layer.second.covariance + mean[:, :, None] * mean[:, None, :]
        for group, hessian in enumerate(hessians):
            factor = self._factor(hessian[np.ix_(order, order)])
            new, gone = _swept(layer.weight[group][:, order], factor, pattern, free)
            result[group][:, order], zeros[group][:, order] = new, gone
        return result, zeros

    def _factor(self, hessian: Floats) -> Floats:
        """Return U of the module's formula."""
        width = len(hessian)
        scale = float(np.trace(hessian)) / width or 1.0
        damped = hessian + self.damping * scale * np.eye(width)
        inverse = cho_solve(cho_factor(damped, lower=True), np.eye(width))
        upper: Floats = cholesky((inverse + inverse.T) / 2, lower=False)
        return upper


def _order(pattern: Pattern, layer: Layer) -> tuple[NDArray[np.int64], int]:
    """Return the order of columns, and how many of them may have zeros.

    Blocks of N:M come first, channels in no whole block last: they stay, and take up what the others
    lost.
    """
    columns = layer.weight.shape[-1]
    if not pattern.of:
        return np.arange(columns), columns
    blocks = pattern.blocks(columns, layer.taps).ravel()
    return np.concatenate([blocks, np.setdiff1d(np.arange(columns), blocks)]), blocks.size


def _swept(weight: Floats, factor: Floats, pattern: Pattern, free: int) -> tuple[Floats, Bools]:
    """Go over the columns of one matrix, (q, p), of which the first `free` may have zeros."""
    new, zeros = weight.copy(), np.zeros(weight.shape, np.bool_)
    ahead = pattern.of or _STRETCH  # columns whose zeros are chosen at once
    stretch = max(_STRETCH // ahead, 1) * ahead
    for start in range(0, free, stretch):
        stop = min(start + stretch, free)
        errors = np.zeros((len(weight), stop - start))
        for at in range(start, stop):
            if (at - start) % ahead == 0:
                part = slice(at, min(at + ahead, stop))
                cost = (new[:, part] / np.diag(factor)[part]) ** 2
                zeros[:, part] = _chosen(cost, pattern)
            error = np.where(zeros[:, at], new[:, at], 0.0) / factor[at, at]
            new[:, at:stop] -= np.outer(error, factor[at, at:stop])
            new[zeros[:, at], at] = 0.0  # what rounding left
            errors[:, at - start] = error
        new[:, stop:] -= errors @ factor[start:stop, stop:]
    return new, zeros


def _chosen(cost: Floats, pattern: Pattern) -> Bools:
    """Return which weights of a stretch go, by what that costs: both of shape (q, columns)."""
    if pattern.of:
        return lowest(cost, pattern.of - pattern.kept)
    return lowest(cost.ravel(), int(pattern.share * cost.size + 1e-9)).reshape(cost.shape)


SPARSIFIERS.register("sparsegpt")(SparseGpt())
