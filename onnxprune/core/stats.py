"""What calibration found, per tensor and per linear operator; all streamed, none grows with samples."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Moments:
    """First and second moments per position of one tensor's axis, over samples and all other axes.

    Attributes:
        count: values seen per channel.
        mean: float64, shape (C,), in the unit of the activation.
        square: float64, shape (C,), mean of squares.
        fluctuation: float64, shape (C,), variance over samples of the per-sample mean (FLAP).
    """

    count: int
    mean: Floats
    square: Floats
    fluctuation: Floats

    @property
    def variance(self) -> Floats:
        """Variance per channel, never negative."""
        return np.maximum(self.square - self.mean**2, 0.0)

    @property
    def norm(self) -> Floats:
        """Euclidean norm per channel over everything seen (Wanda's ||X_j||_2)."""
        return np.sqrt(self.square * self.count)


@dataclasses.dataclass(frozen=True)
class SecondMoments:
    """Centred second moments of the patches one linear operator reads.

    Columns are (channel, tap), channel-major, as in a flattened Conv weight (C/groups * taps per
    group). Rows are sampled output positions.

    Attributes:
        rows: number of rows folded in.
        mean: float64, shape (G, p), column means per convolution group (G = 1 if dense).
        covariance: float64, shape (G, p, p), mean of (x - mean)(x - mean)^T.
    """

    rows: int
    mean: Floats
    covariance: Floats


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Everything one streaming run kept.

    Attributes:
        samples: number of samples seen.
        moments: by (tensor, axis) at the operands of contractions.
        second: by index of the linear operator's node; absent where too wide (see `skipped`).
        skipped: node index -> why no second moments were kept.
        random: True when made from random data.
    """

    samples: int
    moments: dict[tuple[str, int], Moments]
    second: dict[int, SecondMoments]
    skipped: dict[int, str]
    random: bool = False
