"""How far each pair of points is apart, row by row: what lies between them, as an angle and a length."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from onnxprune.core.alignment import Shifts
from onnxprune.core.analysis import Analysis
from onnxprune.core.contracts import COLLECTORS, Calibration, Fold
from onnxprune.core.graph import Array
from onnxprune.core.patches import Keys
from onnxprune.core.stats import Statistics
from onnxprune.core.stream import Probes

from ._rows import Reader

_TOKENS = 16  # of each sample


class _Fold:
    """Sums over the rows of each pair."""

    def __init__(self, settings: Calibration) -> None:
        self.pairs = settings.pairs
        self.reader = Reader(settings, _TOKENS)
        self.probes: Probes = self.reader.probes
        self.sums = np.zeros((len(self.pairs), 4))  # rows, cosines, |y - x|^2, |x|^2

    def add(self, values: Mapping[str, Array], keys: Keys) -> None:
        """Fold in one run."""
        rows: dict[int, Array] = {}
        for stream, read in self.reader.read(values, keys).items():
            rows |= dict(zip(self.reader.streams[stream], read.values, strict=True))
        for number, (first, second) in enumerate(self.pairs):
            x, y = rows[first].astype(np.float64), rows[second].astype(np.float64)
            xx, yy, xy = (np.einsum("rd,rd->r", a, b) for a, b in ((x, x), (y, y), (x, y)))
            lengths = np.sqrt(xx * yy)
            cosines = np.divide(xy, lengths, out=np.ones_like(xy), where=lengths > 0)
            self.sums[number] += [len(x), cosines.sum(), (xx + yy - 2 * xy).sum(), xx.sum()]

    def finish(self, statistics: Statistics) -> Statistics:
        """Return `statistics` with the shifts."""
        rows, cosines, moved, size = self.sums.T
        tiny = np.finfo(np.float64).tiny
        magnitude = np.sqrt(np.maximum(moved, 0) / np.maximum(size, tiny))
        shifts = Shifts(cosines / np.maximum(rows, 1), magnitude)
        return dataclasses.replace(statistics, shifts=shifts)


class _Shifts:
    """Cosine and relative length of what lies between two points."""

    def start(self, analysis: Analysis, settings: Calibration) -> Fold:  # noqa: ARG002 - as all do
        """Begin with nothing seen."""
        return _Fold(settings)


COLLECTORS.register("shifts")(_Shifts())
