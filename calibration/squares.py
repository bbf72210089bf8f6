"""Squared gradients of single samples, by weight: the diagonal of the empirical Fisher information.

Samples go back through the model one by one (run by run where the model fixes how many it takes).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from onnxprune.core.analysis import Analysis
from onnxprune.core.contracts import COLLECTORS, Calibration, Fold
from onnxprune.core.graph import Array
from onnxprune.core.patches import Keys
from onnxprune.core.stats import Statistics

from ._derived import Derived


class _Fold(Derived):
    """Sums of squared gradients."""

    def __init__(self, analysis: Analysis, settings: Calibration) -> None:
        super().__init__(analysis, settings, at_once=1)
        self.sums = [weight * 0 for weight in self.engine.weights()]
        self.count = 0

    def add(self, values: Mapping[str, Array], keys: Keys) -> None:
        """Fold in one run."""
        for feeds, part, labels in self.pieces(values, keys):
            slopes, _ = self.engine.first(feeds, part, labels)
            for total, slope in zip(self.sums, slopes, strict=True):
                total += slope.square() / len(part)
        self.count += len(keys)

    def finish(self, statistics: Statistics) -> Statistics:
        """Return `statistics` with the mean squares."""
        means = [total / self.count for total in self.sums]
        return dataclasses.replace(statistics, squares=self.engine.by_name(means))


class _Squares:
    """Mean squared gradients of single samples."""

    def start(self, analysis: Analysis, settings: Calibration) -> Fold:
        """Begin with nothing seen."""
        return _Fold(analysis, settings)


COLLECTORS.register("squares")(_Squares())
