"""The closed form of repair: least squares towards a target, with a ridge towards the old weights.

    minimise  E || y - W x - b ||^2 + lambda || W - W0 ||^2 ,   lambda = ridge * tr(S) / p + noise
    W = W0 + (C - W0 S) (S + lambda I)^-1 ,   b = mean(y) - W mean(x)

S = cov(x), C = cov(y, x). The ridge pulls to the weights the model had, not to zero, so that where
samples say nothing nothing changes, and an untouched operator is returned as it was. The noise is
what rounding of float32 products leaves of a variance that is zero: inputs that never move.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from onnxprune.core.errors import DataError

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
WIDEST = 6144  # columns; p^2 numbers of 8 bytes are kept: 300 MB
_EPSILON = float(np.finfo(np.float32).eps)
_LEAST = 1e-12


@dataclasses.dataclass
class Normal:
    """Normal equations of one operator, folded over batches of rows.

    Attributes:
        count: rows folded in.
        sum_x, sum_y: shapes (G, p) and (G, q).
        xx, yx: uncentred, shapes (G, p, p) and (G, q, p); None for operators wider than `WIDEST`,
            of which only the biases are refitted.
    """

    count: int
    sum_x: Floats
    sum_y: Floats
    xx: Floats | None
    yx: Floats | None

    @classmethod
    def empty(cls, groups: int, outputs: int, width: int) -> Normal:
        """Return equations without rows."""
        fits = width <= WIDEST
        return cls(
            0,
            np.zeros((groups, width)),
            np.zeros((groups, outputs)),
            np.zeros((groups, width, width)) if fits else None,
            np.zeros((groups, outputs, width)) if fits else None,
        )

    @np.errstate(all="ignore")  # `refit` refuses what is not finite
    def add(self, x: Singles, y: Singles) -> None:
        """Fold rows in: x of shape (G, rows, p), y of shape (G, rows, q)."""
        self.count += x.shape[1]
        self.sum_x += x.sum(axis=1, dtype=np.float64)
        self.sum_y += y.sum(axis=1, dtype=np.float64)
        if self.xx is not None and self.yx is not None:
            self.xx += x.transpose(0, 2, 1) @ x
            self.yx += y.transpose(0, 2, 1) @ x

    @np.errstate(all="ignore")
    def aim(self, rows: Sequence[tuple[Singles, Singles]]) -> None:
        """Take other targets for the same rows: pairs of x and y as `add` takes them."""
        self.sum_y[:] = 0
        if self.yx is not None:
            self.yx[:] = 0
        for x, y in rows:
            self.sum_y += y.sum(axis=1, dtype=np.float64)
            if self.yx is not None:
                self.yx += y.transpose(0, 2, 1) @ x

    def shift(self, old: Floats) -> Floats:
        """Return the biases (G, q) that are best with the old weights."""
        best: Floats = (self.sum_y - np.einsum("gqp,gp->gq", old, self.sum_x)) / self.count
        return best

    @np.errstate(all="ignore")
    def solve(self, old: Floats, ridge: float) -> tuple[Floats, Floats]:
        """Return weights (G, q, p) and biases (G, q)."""
        if self.xx is None or self.yx is None:
            return old, self.shift(old)
        mean_x, mean_y = self.sum_x / self.count, self.sum_y / self.count
        covariance = self.xx / self.count - mean_x[:, :, None] * mean_x[:, None, :]
        cross = self.yx / self.count - mean_y[:, :, None] * mean_x[:, None, :]
        weight = refit(covariance, cross, old, ridge, rounding(mean_x))
        return weight, mean_y - np.einsum("gqp,gp->gq", weight, mean_x)


def rounding(mean: Floats) -> Floats:
    """Return the noise per group, shape (G,), of covariances around `mean`, shape (G, p)."""
    noise: Floats = _EPSILON * (mean**2).sum(axis=1) + _LEAST
    return noise


def refit(covariance: Floats, cross: Floats, old: Floats, ridge: float, noise: Floats) -> Floats:
    """Return W of the module's formula, per group: shape (G, q, p).

    Raises:
        DataError: if the sums are not finite.
    """
    if not (np.isfinite(covariance).all() and np.isfinite(cross).all()):
        raise DataError(
            "the model's values are not finite on the samples, so nothing can be refitted by them: "
            "mend the weights or the samples, or choose --repair none"
        )
    result = np.empty_like(old)
    width = covariance.shape[-1]
    if len(covariance) > 8:  # many small systems (depthwise): one batched solve
        lam = ridge * np.trace(covariance, axis1=1, axis2=2) / width + noise
        system = covariance + lam[:, None, None] * np.eye(width)
        delta: Floats = np.linalg.solve(system, (cross - old @ covariance).transpose(0, 2, 1))
        return old + delta.transpose(0, 2, 1)
    for group in range(len(old)):
        lam = ridge * float(np.trace(covariance[group])) / width + noise[group]
        factor = cho_factor(covariance[group] + lam * np.eye(width), lower=True)
        gap = cross[group] - old[group] @ covariance[group]
        result[group] = old[group] + cho_solve(factor, gap.T).T
    return result
