"""One number per sample and channel, where linear operators read and write: what MIPP calls a node's value.

A map is summed up by the L1 norm, the L2 norm, the mean or the standard deviation over its
positions. Grows with samples: 3 floats per channel and sample.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from onnxprune.core.analysis import Analysis
from onnxprune.core.contracts import COLLECTORS, Calibration, Fold
from onnxprune.core.graph import Array
from onnxprune.core.patches import Keys
from onnxprune.core.stats import Floats, Statistics, Summaries
from onnxprune.core.stream import Probes

from ._places import by_sample


class _Fold:
    """Summaries of every float tensor that a linear operator reads or writes, and of the outputs."""

    def __init__(self, analysis: Analysis, settings: Calibration) -> None:
        places = [(n.x, n.x_axis) for n in analysis.linears()]
        places += [(n.y, n.y_axis) for n in analysis.linears()]
        self.places = by_sample(analysis, settings, places)
        self.single: set[tuple[str, int]] = set()
        self.keys: list[Keys] = []
        self.held: dict[tuple[str, int], list[Floats]] = {}
        self.probes = Probes(tuple(dict.fromkeys(name for name, _ in self.places)))

    def add(self, values: Mapping[str, Array], keys: Keys) -> None:
        """Fold in one run."""
        count = len(keys)
        self.places = [place for place in self.places if values[place[0]].shape[0] % count == 0]
        for name, axis in self.places:
            x = values[name]
            maps = np.moveaxis(x, axis, 0).reshape(x.shape[axis], count, -1).astype(np.float64)
            found = np.stack([np.abs(maps).mean(2), maps.mean(2), (maps**2).mean(2)])
            if maps.shape[2] == 1:
                self.single.add((name, axis))
            self.held.setdefault((name, axis), []).append(found.transpose(2, 0, 1))
        self.keys.append(keys)

    def finish(self, statistics: Statistics) -> Statistics:
        """Return `statistics` with the summaries, samples in ascending order of their keys."""
        order = np.argsort(np.concatenate(self.keys), kind="stable")
        found = {p: np.concatenate(self.held.pop(p))[order] for p in self.places}
        return dataclasses.replace(statistics, summaries=Summaries(found, frozenset(self.single)))


class _Summaries:
    """Norms, means and spreads per sample and channel."""

    def start(self, analysis: Analysis, settings: Calibration) -> Fold:
        """Begin with nothing seen."""
        return _Fold(analysis, settings)


COLLECTORS.register("summaries")(_Summaries())
