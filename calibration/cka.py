"""Centred kernel alignment between points of a model, streamed: memory does not grow with samples.

Three forms: `cka` is debiased over blocks of 64 rows, `cka-biased` is biased per sentence and
averaged (as the released code of MPruner, arXiv 2408.13482, does for BERT and T5), and
`cka-features` is biased over all rows at once, in the space of features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from onnxprune.core.alignment import Alignment
from onnxprune.core.analysis import Analysis
from onnxprune.core.contracts import COLLECTORS, Calibration, Fold
from onnxprune.core.errors import DataError
from onnxprune.core.graph import Array
from onnxprune.core.patches import Keys
from onnxprune.core.stats import Floats, Statistics

from ._hsic import LEAST, biased, debiased
from ._rows import Reader, Rows

_BLOCK = 64  # rows of a Gram matrix
_PARTS = 16  # sums over blocks that are kept apart, for the spread
_FEWEST = 16  # rows
_TOKENS = 4  # of each sample: sentences differ more than the tokens of one
_WHOLE = 512  # tokens of a sentence that is a block by itself
_WIDEST = 8192  # columns of all points together, in the space of features: 0.5 GB


class _Sums(Protocol):
    """Sums over the rows of one stream.

    Attributes:
        rows: how many were folded in.
    """

    rows: int

    def add(self, rows: Rows) -> None:
        """Fold rows in."""
        ...

    def finish(self) -> Floats:
        """Return the sums, shape (F, l, l)."""
        ...


class _Blocks:
    """Sums over blocks of rows: of a fixed length, or of one sample each."""

    def __init__(
        self, points: int, products: Callable[[Sequence[Array]], Floats], per_sample: bool
    ) -> None:
        self.products, self.per_sample = products, per_sample
        self.sums = np.zeros((_PARTS, points, points))
        self.blocks = self.rows = self.filled = 0
        self.held: list[Array] = []

    def add(self, rows: Rows) -> None:
        """Fold rows in, a block at a time."""
        if self.per_sample:
            for sample in np.unique(rows.samples):
                self._fold([x[rows.samples == sample] for x in rows.values])
            return
        taken, count = 0, len(rows.samples)
        if not self.held:
            self.held = [np.empty((_BLOCK, x.shape[1]), x.dtype) for x in rows.values]
        while taken < count:
            step = min(_BLOCK - self.filled, count - taken)
            for held, x in zip(self.held, rows.values, strict=True):
                held[self.filled : self.filled + step] = x[taken : taken + step]
            taken, self.filled = taken + step, self.filled + step
            if self.filled == _BLOCK:
                self._flush()

    def _flush(self) -> None:
        self._fold([held[: self.filled] for held in self.held])
        self.filled = 0

    def _fold(self, block: Sequence[Array]) -> None:
        if len(block[0]) >= LEAST:
            self.sums[self.blocks % _PARTS] += self.products(block)
            self.blocks += 1
            self.rows += len(block[0])

    def finish(self) -> Floats:
        """Return the sums of the parts that got a block: shape (F, l, l)."""
        if self.filled:
            self._flush()
        return self.sums[: max(self.blocks, 1)]


class _Features:
    """Sums of |cov(x_i, x_j)|^2, from the second moments of all points side by side."""

    def __init__(self) -> None:
        self.rows = 0
        self.widths: list[int] = []
        self.pilot: Array = np.empty(0)
        self.sum, self.products = np.empty(0), np.empty((0, 0))

    def add(self, rows: Rows) -> None:
        """Fold rows in."""
        joined = np.concatenate(rows.values, axis=1)
        if not self.widths:
            self.widths = [x.shape[1] for x in rows.values]
            if (width := joined.shape[1]) > _WIDEST:
                raise DataError(
                    f"the points to compare hold {width} values per row together, and the form "
                    f"'features' takes at most {_WIDEST}: choose 'debiased'"
                )
            self.pilot = joined.mean(axis=0)
            self.sum, self.products = np.zeros(width), np.zeros((width, width))
        joined = joined - self.pilot  # else a mean that is large against the spread cancels
        self.rows += len(joined)
        self.sum += joined.sum(axis=0, dtype=np.float64)
        self.products += joined.T @ joined

    def finish(self) -> Floats:
        """Return the squared norms of the covariances: shape (1, l, l)."""
        mean = self.sum / max(self.rows, 1)
        covariance = self.products / max(self.rows, 1) - np.outer(mean, mean)
        edges = np.concatenate([[0], np.cumsum(self.widths)[:-1]]).astype(np.int64)
        by_rows = np.add.reduceat(covariance**2, edges, axis=0)
        return np.asarray(np.add.reduceat(by_rows, edges, axis=1)[None])


class _Fold:
    """CKA between the points asked for."""

    def __init__(self, settings: Calibration, form: str) -> None:
        per_sample = form == "biased"
        self.names = tuple(point.tensor for point in settings.points)
        self.reader = Reader(settings, _WHOLE if per_sample else _TOKENS)
        self.probes = self.reader.probes
        self.streams: dict[int, _Sums] = {}
        for stream, numbers in self.reader.streams.items():
            tokens = settings.points[numbers[0]].tokens
            products = biased if per_sample else debiased
            self.streams[stream] = (
                _Features() if form == "features"
                else _Blocks(len(numbers), products, per_sample and tokens)
            )  # fmt: skip

    def add(self, values: Mapping[str, Array], keys: Keys) -> None:
        """Fold in one run."""
        for stream, rows in self.reader.read(values, keys).items():
            self.streams[stream].add(rows)

    def finish(self, statistics: Statistics) -> Statistics:
        """Return `statistics` with the alignment.

        Raises:
            DataError: if there were too few rows to tell features from chance.
        """
        found = {stream: sums.finish() for stream, sums in self.streams.items()}
        fewest = min((sums.rows for sums in self.streams.values()), default=0)
        if found and fewest < _FEWEST:
            raise DataError(
                f"similarity of activations needs at least {_FEWEST} rows (samples, or a few tokens "
                f"of each), found {fewest}: give more samples"
            )
        parts = min((len(sums) for sums in found.values()), default=0)
        joined = np.full((parts, len(self.names), len(self.names)), np.nan)
        for stream, sums in found.items():
            at = np.ix_(*[self.reader.streams[stream]] * 2)
            for part in range(parts):
                joined[part][at] = sums[part::parts].sum(axis=0)
        return dataclasses.replace(statistics, alignment=Alignment(self.names, fewest, joined))


@dataclasses.dataclass(frozen=True)
class _Cka:
    form: str

    def start(self, analysis: Analysis, settings: Calibration) -> Fold:  # noqa: ARG002 - as all do
        """Begin with nothing seen."""
        return _Fold(settings, self.form)


COLLECTORS.register("cka")(_Cka("debiased"))
COLLECTORS.register("cka-biased")(_Cka("biased"))
COLLECTORS.register("cka-features")(_Cka("features"))
