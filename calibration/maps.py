"""Activations of a fixed set of samples, kept whole, where linear operators read them.

Which samples are kept depends on their contents alone (the smallest keys, see `patches`), not on
their order or on batches. Of large maps every second position along the longest axis is kept, and so
on until they are small enough: the mean squared distance over them estimates the one over all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from onnxprune.core.analysis import Analysis
from onnxprune.core.contracts import COLLECTORS, Calibration, Fold
from onnxprune.core.graph import Array
from onnxprune.core.patches import Keys
from onnxprune.core.stats import Maps, Statistics
from onnxprune.core.stream import LABEL, Probes

from ._places import FLOATS, by_sample


class _Fold:
    """Maps of every float tensor that a linear operator reads."""

    def __init__(self, analysis: Analysis, settings: Calibration) -> None:
        self.kept, self.positions = settings.kept, settings.positions
        read = ((linear.x, linear.x_axis) for linear in analysis.linears())
        self.places = by_sample(analysis, settings, read)
        self.outputs = [
            value.name
            for value in analysis.graph.outputs
            if analysis.shapes.dtypes.get(value.name) in FLOATS
        ]
        self.keys: Keys = np.empty(0, np.uint64)
        self.held: dict[object, Array] = {}
        self.shapes: dict[tuple[str, int], tuple[int, ...]] = {}
        names = [name for name, _ in self.places]
        self.probes = Probes(tuple(dict.fromkeys(names + self.outputs)))

    def add(self, values: Mapping[str, Array], keys: Keys) -> None:
        """Fold in one run, and let go of all but the smallest keys."""
        count = len(keys)
        # what is the same for all samples of a run (a table of positions) has no map
        self.places = [place for place in self.places if values[place[0]].shape[0] % count == 0]
        found: dict[object, Array] = {p: self._maps(values[p[0]], p[1], count) for p in self.places}
        found["outputs"] = np.concatenate(
            [values[name].reshape(count, -1).astype(np.float32) for name in self.outputs]
            or [np.empty((count, 0), np.float32)],
            axis=1,
        )
        found.update((name, values[name]) for name in values if name.startswith(LABEL))
        joined = np.concatenate([self.keys, keys])
        chosen = np.sort(np.argsort(joined, kind="stable")[: self.kept])
        old, new = (
            chosen[chosen < len(self.keys)],
            chosen[chosen >= len(self.keys)] - len(self.keys),
        )
        if len(new):
            for what, rows in found.items():
                before = self.held.get(what, rows[:0])
                self.held[what] = np.concatenate([before[old], rows[new]])
            self.keys = joined[chosen]

    def _maps(self, x: Array, axis: int, count: int) -> Array:
        """Return (N, C, ...): what is neither sample nor channel is position."""
        moved = np.moveaxis(x, axis, 1)
        if len(moved) != count:  # a sample spreads over several entries: windows, frames
            moved = moved.reshape(count, -1, *moved.shape[1:]).swapaxes(1, 2)
        while np.prod(moved.shape[2:]) > self.positions:
            longest = 2 + int(np.argmax(moved.shape[2:]))
            moved = moved[(slice(None),) * longest + (slice(None, None, 2),)]
        return np.ascontiguousarray(moved, np.float32)

    def _flat(self, place: tuple[str, int]) -> Array:
        """Return (N, C, D), and note what D was."""
        held = self.held.pop(place)
        self.shapes[place] = held.shape[2:]
        return held.reshape(*held.shape[:2], -1)

    def finish(self, statistics: Statistics) -> Statistics:
        """Return `statistics` with the maps, samples in ascending order of their keys."""
        order = np.argsort(self.keys, kind="stable")
        maps = Maps(
            values={place: self._flat(place)[order] for place in self.places},
            positions=self.shapes,
            outputs=self.held.pop("outputs")[order],
            labels={str(n).removeprefix(LABEL): rows[order] for n, rows in self.held.items()},
        )
        return dataclasses.replace(statistics, maps=maps)


class _Maps:
    """Activations of up to 256 samples, kept whole."""

    def start(self, analysis: Analysis, settings: Calibration) -> Fold:
        """Begin with nothing seen."""
        return _Fold(analysis, settings)


COLLECTORS.register("maps")(_Maps())
