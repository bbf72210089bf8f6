"""First derivatives of the loss: by weights, mean over samples; by channels, sample by sample.

Grows with samples: one float per sample and channel that a linear operator reads. What the loss is,
`onnxprune.torch.objective` says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from onnxprune.core.analysis import Analysis
from onnxprune.core.contracts import COLLECTORS, Calibration, Fold
from onnxprune.core.graph import Array
from onnxprune.core.patches import Keys
from onnxprune.core.stats import Gradients, Statistics

from ._derived import Derived
from ._places import Place, by_sample


class _Fold(Derived):
    """Sums of gradients, and what each channel's gate adds to the loss."""

    def __init__(self, analysis: Analysis, settings: Calibration) -> None:
        super().__init__(analysis, settings)
        read = ((linear.x, linear.x_axis) for linear in analysis.linears())
        self.places = by_sample(analysis, settings, read)
        self.sums = [weight * 0 for weight in self.engine.weights()]
        self.keys: list[Keys] = []
        self.gates: dict[Place, list[NDArray[np.float32]]] = {}

    def add(self, values: Mapping[str, Array], keys: Keys) -> None:
        """Fold in one run."""
        for feeds, part, labels in self.pieces(values, keys):
            slopes, gates = self.engine.first(feeds, part, labels, self.places)
            for total, slope in zip(self.sums, slopes, strict=True):
                total += slope
            for place, gate in gates.items():
                self.gates.setdefault(place, []).append(gate)
        self.keys.append(keys)

    def finish(self, statistics: Statistics) -> Statistics:
        """Return `statistics` with the gradients, samples in ascending order of their keys."""
        keys = np.concatenate(self.keys)
        order = np.argsort(keys, kind="stable")
        gates = {place: np.concatenate(rows)[order] for place, rows in self.gates.items()}
        means = [total / len(keys) for total in self.sums]
        found = Gradients(self.engine.by_name(means), gates)
        return dataclasses.replace(statistics, gradients=found)


class _Gradients:
    """Derivatives of the loss by weights and by channels."""

    def start(self, analysis: Analysis, settings: Calibration) -> Fold:
        """Begin with nothing seen."""
        return _Fold(analysis, settings)


COLLECTORS.register("gradients")(_Gradients())
