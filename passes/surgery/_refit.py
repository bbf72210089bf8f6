"""The closed form of repair: least squares towards a target, with a ridge towards the old weights.

    minimise  E || y - W x - b ||^2 + lambda || W - W0 ||^2 ,   lambda = ridge * tr(S) / p + noise
    W = W0 + (C - W0 S) (S + lambda I)^-1 ,   b = mean(y) - W mean(x)

S = cov(x), C = cov(y, x). The ridge pulls to the weights the model had, not to zero, so that where
samples say nothing nothing changes, and an untouched operator is returned as it was. The noise is
what rounding of float32 products leaves of a variance that is zero: inputs that never move.

How strong the ridge must be depends on how many rows there are, how alike, and how well they explain
the target: each output takes the one whose fit to one half of the samples errs least on the other,
both ways round, which follows from the second moments of both halves. The best ridge shrinks as
1 / rows (it is noise over prior variance over rows), so that half of it serves the whole.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from onnxprune.core.errors import DataError

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
WIDEST = 6144  # columns; p^2 numbers of 8 bytes are kept, twice: 300 MB each
RIDGE = 1e-3  # where nothing tells a better one
_CANDIDATES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
_EPSILON = 8 * float(np.finfo(np.float32).eps)  # of sums of many products: several roundings
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

    def solve(self, old: Floats, ridge: Floats) -> tuple[Floats, Floats]:
        """Return weights (G, q, p) and biases (G, q), with a ridge per output, shape (G, q)."""
        if (centred := self.centred()) is None:
            return old, self.shift(old)
        mean_x, mean_y = self.sum_x / self.count, self.sum_y / self.count
        weight = refit(*centred, old, ridge, rounding(mean_x))
        return weight, mean_y - np.einsum("gqp,gp->gq", weight, mean_x)

    @np.errstate(all="ignore")
    def centred(self) -> tuple[Floats, Floats] | None:
        """Return cov(x), shape (G, p, p), and cov(y, x), shape (G, q, p), where they are kept."""
        if self.xx is None or self.yx is None:
            return None
        mean_x, mean_y = self.sum_x / self.count, self.sum_y / self.count
        covariance = self.xx / self.count - mean_x[:, :, None] * mean_x[:, None, :]
        return covariance, self.yx / self.count - mean_y[:, :, None] * mean_x[:, None, :]

    def __iadd__(self, other: Normal) -> Normal:
        """Fold in the rows of others."""
        self.count += other.count
        self.sum_x += other.sum_x
        self.sum_y += other.sum_y
        if self.xx is not None and other.xx is not None:
            self.xx += other.xx
        if self.yx is not None and other.yx is not None:
            self.yx += other.yx
        return self


def rounding(mean: Floats) -> Floats:
    """Return the noise per group, shape (G,), of covariances around `mean`, shape (G, p)."""
    noise: Floats = _EPSILON * (mean**2).sum(axis=1) + _LEAST
    return noise


def chosen_ridge(first: Normal, second: Normal, old: Floats) -> Floats:
    """Return the ridge for both halves together, per output: shape (G, q)."""
    shape = old.shape[:2]
    halves = [
        (rounding(half.sum_x / half.count), centred)
        for half in (first, second)
        if half.count and (centred := half.centred()) is not None
    ]
    if len(halves) < 2:
        return np.full(shape, RIDGE)
    errors = np.zeros((len(_CANDIDATES), *shape))
    for (noise, seen), (_, (covariance, cross)) in itertools.permutations(halves):
        for number, ridge in enumerate(_CANDIDATES):
            new = refit(*seen, old, np.full(shape, ridge), noise)
            errors[number] += ((new @ covariance - 2 * cross) * new).sum(axis=2)
    best: Floats = np.array(_CANDIDATES)[errors.argmin(axis=0)] / 2
    return best


def refit(covariance: Floats, cross: Floats, old: Floats, ridge: Floats, noise: Floats) -> Floats:
    """Return W of the module's formula, per group: shape (G, q, p); ridge per output, shape (G, q).

    Raises:
        DataError: if the sums are not finite.
    """
    if not (np.isfinite(covariance).all() and np.isfinite(cross).all()):
        raise DataError(
            "the model's values are not finite on the samples, so nothing can be refitted by them: "
            "mend the weights or the samples, or choose --repair none"
        )
    gap = cross - old @ covariance
    trace = np.trace(covariance, axis1=1, axis2=2)
    variance: Floats = np.maximum(trace, 0) / covariance.shape[-1]  # rounding may leave less than 0
    result = old.copy()
    for value in np.unique(ridge):
        chosen = ridge == value
        result[chosen] += _solved(covariance, gap, chosen, value * variance + noise)[chosen]
    return result


def _solved(covariance: Floats, gap: Floats, chosen: NDArray[np.bool_], lam: Floats) -> Floats:
    """Return gap (S + lambda I)^-1 of the chosen outputs, per group."""
    eye, result = np.eye(covariance.shape[-1]), np.zeros_like(gap)
    if len(covariance) > 8:  # many small systems (depthwise): one batched solve
        system = covariance + lam[:, None, None] * eye
        result[:] = np.linalg.solve(system, gap.transpose(0, 2, 1)).transpose(0, 2, 1)
        return result
    for group in np.flatnonzero(chosen.any(axis=1)):
        factor = cho_factor(covariance[group] + lam[group] * eye, lower=True)
        result[group, chosen[group]] = cho_solve(factor, gap[group, chosen[group]].T).T
    return result
