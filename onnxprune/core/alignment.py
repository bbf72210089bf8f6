"""How alike the activations at several points of a model are: what depth is decided by."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Point:
    """A tensor whose activations are compared with those at other points.

    Attributes:
        tensor: its name; the first axis is the samples.
        tokens: whether its rows are tokens, shape (samples, tokens, channels); else a row is all
            that it holds of one sample.
        mask: the input, shape (samples, tokens), that is zero at padding; None: every token counts.
        stream: points of equal number have the same rows, and only they are compared.
    """

    tensor: str
    tokens: bool = False
    mask: str | None = None
    stream: int = 0


@dataclasses.dataclass(frozen=True)
class Alignment:
    """Centred kernel alignment (CKA) between points, as sums over blocks of rows.

    Attributes:
        points: tensors.
        rows: how many rows of the stream that has fewest were compared.
        sums: float64, shape (F, L, L): F parts of the blocks, each the sum of an inner product of
            centred Gram matrices; NaN between points of different streams.
    """

    points: tuple[str, ...]
    rows: int
    sums: Floats

    @cached_property
    def similarity(self) -> Floats:
        """CKA of all pairs: float64, shape (L, L), 1 where equal up to rotation and scale.

        About 0 for independent features, and below it by chance; NaN between streams, and where a
        point never moves.
        """
        return _normalised(self.sums.sum(axis=0))

    @cached_property
    def spread(self) -> Floats:
        """Standard error of each similarity, shape (L, L), by the jackknife over parts; NaN for one."""
        parts = len(self.sums)
        if parts < 2:
            return np.full_like(self.similarity, np.nan)
        total = self.sums.sum(axis=0)
        without = np.stack([_normalised(total - part) for part in self.sums])
        deviation = without - without.mean(axis=0)
        result: Floats = np.sqrt((parts - 1) / parts * (deviation**2).sum(axis=0))
        return result


def _normalised(products: Floats) -> Floats:
    """Divide inner products by the norms; NaN where a squared norm is not positive."""
    squares = np.diagonal(products).copy()
    squares[~(squares > 0)] = np.nan
    norms = np.sqrt(squares)
    result: Floats = products / norms[:, None] / norms[None, :]
    return result


@dataclasses.dataclass(frozen=True)
class Shifts:
    """What lies between two points, row by row, for each pair asked for.

    Attributes:
        cosine: float64, shape (P,): mean cosine between the rows x and y.
        magnitude: float64, shape (P,): |y - x| / |x|, both over all rows.
    """

    cosine: Floats
    magnitude: Floats
