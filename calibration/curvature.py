"""Products with the Hessian of the loss, over up to 256 samples that are kept for it.

The gradient comes first, then H g and H t (`Curvature`), so the samples are gone through twice; which
are kept depends on their contents alone (the smallest keys).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.core.analysis import Analysis
from onnxprune.core.contracts import COLLECTORS, Calibration, Fold
from onnxprune.core.graph import Array
from onnxprune.core.patches import Keys
from onnxprune.core.stats import Curvature, Statistics

from ._derived import Derived, Piece

if TYPE_CHECKING:
    from onnxprune.torch.gradients import Values


class _Fold(Derived):
    """Samples, until the end."""

    def __init__(self, analysis: Analysis, settings: Calibration) -> None:
        super().__init__(analysis, settings)
        self.shared, self.kept = self.at_once, settings.kept
        self.at_once = settings.count  # held one by one, or by runs of the model's own size
        self.owned = _owned(analysis)
        self.held: list[Piece] = []

    def add(self, values: Mapping[str, Array], keys: Keys) -> None:
        """Keep samples, and let go of all but the smallest keys."""
        for feeds, part, labels in self.pieces(values, keys):
            own = {name: x.copy() for name, x in feeds.items()}
            self.held.append((own, part, None if labels is None else labels.copy()))
        self.held.sort(key=lambda piece: int(piece[1][0]))
        del self.held[max(1, self.kept // self.at_once) :]

    def finish(self, statistics: Statistics) -> Statistics:
        """Return `statistics` with the products."""
        weights = self.engine.weights()
        gradient, first, second = ([w * 0 for w in weights] for _ in range(3))
        count = sum(len(keys) for _, keys, _ in self.held)
        for feeds, keys, labels in self._joined():
            _add(gradient, self.engine.first(feeds, keys, labels)[0], count)
        units = [
            w * w.new_tensor(self.owned.get(name, 0.0))
            for name, w in zip(self.engine.names, weights, strict=True)
        ]
        for feeds, keys, labels in self._joined():
            products = self.engine.second(feeds, keys, labels, (gradient, units))
            _add(first, products[0], count)
            _add(second, products[1], count)
        named = map(self.engine.by_name, (gradient, first, second))
        return dataclasses.replace(statistics, curvature=Curvature(*named))

    def _joined(self) -> Iterator[Piece]:
        """Yield what is held, as many samples at once as memory allows."""
        step = max(1, self.shared // self.at_once)
        for start in range(0, len(self.held), step):
            part = self.held[start : start + step]
            count = [len(keys) for _, keys, _ in part]
            feeds = {
                name: np.concatenate([f[name] for f, _, _ in part])
                if part[0][0][name].shape[:1] == (count[0],)
                else part[0][0][name]
                for name in part[0][0]
            }
            labels = [rows for _, _, rows in part if rows is not None]
            keys = np.concatenate([keys for _, keys, _ in part])
            yield feeds, keys, np.concatenate(labels) if labels else None


def _add(totals: Values, values: Values, count: int) -> None:
    for total, value in zip(totals, values, strict=True):
        total += value / count


def _owned(analysis: Analysis) -> dict[str, Array]:
    """Return how many units own each value of a weight: float32, broadcasts to its shape."""
    times: dict[str, Array] = {}
    for group in analysis.groups:
        for member in group.members:
            shape = analysis.graph.weights[member.tensor].shape
            along = np.bincount(member.index.ravel(), minlength=shape[member.axis])
            rows = along.reshape(-1, *[1] * (len(shape) - 1 - member.axis)).astype(np.float32)
            times[member.tensor] = times.get(member.tensor, np.float32(0)) + rows
    return times


class _Curvature:
    """Products of the loss's Hessian."""

    def start(self, analysis: Analysis, settings: Calibration) -> Fold:
        """Begin with nothing seen."""
        return _Fold(analysis, settings)


COLLECTORS.register("curvature")(_Curvature())
