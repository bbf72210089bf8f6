"""What calibration found, per tensor and per linear operator; all streamed, none grows with samples."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .alignment import Alignment, Shifts

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Norm = Literal["l1", "l2", "mean", "std"]


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

    def ridge(self, least: float) -> Floats:
        """Return how much ridge a fit needs, as a share of the mean variance, shape (G,).

        A fit to fewer rows than columns has no error, whatever is left to fit with; one to twice as
        many shows a quarter of the error it will have. There a covariance of which the share r is the
        identity's, times the mean variance, is nearer to the true one, and that is a ridge of
        r / (1 - r), at most as strong as the covariance itself.

        Args:
            least: what it is where there are rows enough.

        Source:
            r: oracle approximating shrinkage (Chen et al. 2010, arXiv 0907.4698, eq. 23).
        """
        width = self.covariance.shape[-1]
        if self.rows >= 2 * width:
            return np.full(len(self.covariance), least)
        trace = np.trace(self.covariance, axis1=1, axis2=2)
        squares = np.einsum("gpq,gpq->g", self.covariance, self.covariance)
        above = (1 - 2 / width) * squares + trace**2
        below = (self.rows + 1 - 2 / width) * (squares - trace**2 / width)
        share = np.divide(above, below, out=np.zeros_like(trace), where=below > 0).clip(0, 0.5)
        ridge: Floats = np.maximum(least, share / (1 - share))
        return ridge


@dataclasses.dataclass(frozen=True)
class Maps:
    """Activations of a fixed set of samples, kept whole: for kernels between samples.

    Attributes:
        values: (tensor, axis) -> float32, shape (N, C, D): per sample and channel D positions, all
            of them or as many as were asked for, evenly spread, the same in every sample.
        positions: (tensor, axis) -> the shape that D flattens, () for a single one.
        outputs: float32, shape (N, K): the outputs of the model, flattened and joined.
        labels: keys of the data that are no model input -> array, first axis N.
    """

    values: dict[tuple[str, int], NDArray[np.float32]]
    positions: dict[tuple[str, int], tuple[int, ...]]
    outputs: NDArray[np.float32]
    labels: dict[str, NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Summaries:
    """One number per sample and channel of tensor axes.

    Attributes:
        values: (tensor, axis) -> float64, shape (N, 3, C): over the positions of a sample the mean
            of |x|, of x and of x^2. The mean of |x| is the L1 norm but for a factor.
        single: where a sample has one position: nothing to sum up.
    """

    values: dict[tuple[str, int], Floats]
    single: frozenset[tuple[str, int]]

    def collapsed(self, place: tuple[str, int], how: Norm, index: Ints | None = None) -> Floats:
        """Return one number per sample and unit; what has one value keeps it, sign and all.

        Args:
            place: tensor and axis.
            how: the norm over the positions and cells of a unit, but for a factor.
            index: shape (U, k): the channels of each unit (the cells of a flattened map); None: each.

        Returns:
            float64, shape (N, U).
        """
        held = self.values[place]
        cells = np.arange(held.shape[2])[:, None] if index is None else index
        magnitude, mean, square = np.moveaxis(held[:, :, cells].mean(axis=3), 1, 0)
        if place in self.single and cells.shape[1] == 1:
            how = "mean"
        result: Floats = {
            "l1": magnitude,
            "l2": np.sqrt(square),
            "mean": mean,
            "std": np.sqrt(np.maximum(square - mean**2, 0.0)),
        }[how]
        return result


@dataclasses.dataclass(frozen=True)
class Contributions:
    """What each channel adds to sampled outputs of one linear operator.

    Attributes:
        added: float32, shape (N, R, C): R rows per sample, each one output at one position; the sum
            over channels is that output but for its bias.
        outputs: int64, shape (N, R): which output.
    """

    added: NDArray[np.float32]
    outputs: NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Gradients:
    """First derivatives of the loss (see `onnxprune.torch.objective`) where the model stands.

    Attributes:
        weights: initializer -> float32, its shape: dL/dw, mean over samples. Learned ones only.
        gates: (tensor, axis) -> float32, shape (N, C): per sample and channel the sum over positions
            of x dL/dx, which is the derivative by a gate that multiplies the channel.
    """

    weights: dict[str, NDArray[np.float32]]
    gates: dict[tuple[str, int], NDArray[np.float32]]


@dataclasses.dataclass(frozen=True)
class Curvature:
    """Products with the Hessian H of the mean loss, over a fixed set of samples.

    Attributes:
        gradient: initializer -> float32, its shape: g, over the same samples.
        along_gradient: H g.
        along_weights: H t, where t sums the weights of all units: each as often as units own it.
    """

    gradient: dict[str, NDArray[np.float32]]
    along_gradient: dict[str, NDArray[np.float32]]
    along_weights: dict[str, NDArray[np.float32]]


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Everything one streaming run kept.

    Attributes:
        samples: number of samples seen.
        moments: by (tensor, axis) at the operands of contractions.
        second: by index of the linear operator's node; absent where too wide (see `skipped`).
        skipped: node index -> why no second moments were kept.
        random: True when made from random data.
        maps: of some of the samples; None unless asked for.
        summaries: of all samples; None unless asked for.
        alignment: between points of the model; None unless asked for.
        shifts: between pairs of them; None unless asked for.
        contributions: by index of the linear operator's node; None unless asked for.
        gradients: of weights and channels; None unless asked for.
        squares: initializer -> float32, its shape: mean of the squared gradients of single samples;
            None unless asked for.
        curvature: products with the Hessian; None unless asked for.
    """

    samples: int
    moments: dict[tuple[str, int], Moments]
    second: dict[int, SecondMoments]
    skipped: dict[int, str]
    random: bool = False
    maps: Maps | None = None
    summaries: Summaries | None = None
    alignment: Alignment | None = None
    shifts: Shifts | None = None
    contributions: dict[int, Contributions] | None = None
    gradients: Gradients | None = None
    squares: dict[str, NDArray[np.float32]] | None = None
    curvature: Curvature | None = None
