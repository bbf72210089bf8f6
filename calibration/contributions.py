"""What each channel adds to sampled outputs of a linear operator: how ThiNet looks at a layer.

One row is one output o at one position s of one sample (Luo et al. 2017, arXiv 1707.06342, 3.2):

    y = sum over channels c of x_c,      x_c = sum over taps t of W[o, c, t] P[s, (c, t)]

Positions are those of `onnxprune.core.patches`; outputs are spread evenly over the rows of a sample,
from a start that the sample's key decides. Grows with samples: 16 rows of 4 bytes a channel each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from onnxprune.core.analysis import Analysis
from onnxprune.core.contracts import COLLECTORS, Calibration, Evidence, Fold
from onnxprune.core.declared import Linear
from onnxprune.core.graph import Array
from onnxprune.core.linear import weight_matrices
from onnxprune.core.patches import Ints, Keys, patches, sample_positions
from onnxprune.core.stats import Contributions, Statistics
from onnxprune.core.stream import Probes

from ._places import by_sample

_ROWS = 16  # of each sample and operator


class _Fold:
    """Rows of every linear operator that reads floats."""

    def __init__(self, analysis: Analysis, settings: Calibration) -> None:
        self.evidence = Evidence(analysis, None)
        known = by_sample(analysis, settings, ((n.x, n.x_axis) for n in analysis.linears()))
        self.linears = [n for n in analysis.linears() if (n.x, n.x_axis) in known]
        self.keys: list[Keys] = []
        self.held: dict[int, list[tuple[Array, Ints]]] = {}
        self.probes = Probes(tuple(dict.fromkeys(linear.x for linear in self.linears)))

    def add(self, values: Mapping[str, Array], keys: Keys) -> None:
        """Fold in one run."""
        count = len(keys)
        self.linears = [n for n in self.linears if values[n.x].shape[0] % count == 0]
        for linear in self.linears:
            weights = weight_matrices(self.evidence.weight(linear.weight), linear)
            added, outputs = _rows(values[linear.x], linear, weights, keys)
            shape = (count, len(outputs) // count)
            part = added.reshape(*shape, -1), outputs.reshape(shape)
            self.held.setdefault(linear.node, []).append(part)
        self.keys.append(keys)

    def finish(self, statistics: Statistics) -> Statistics:
        """Return `statistics` with the rows, samples in ascending order of their keys."""
        order = np.argsort(np.concatenate(self.keys), kind="stable")
        found = {}
        for linear in self.linears:
            added, outputs = zip(*self.held.pop(linear.node), strict=True)
            found[linear.node] = Contributions(
                np.concatenate(added)[order], np.concatenate(outputs)[order]
            )
        return dataclasses.replace(statistics, contributions=found)


def _rows(x: Array, linear: Linear, weights: Array, keys: Keys) -> tuple[Array, Ints]:
    """Return what channels add, float32, shape (M, C), and the output of each row, int64, shape (M,).

    Args:
        x: what the operator reads.
        linear: the operator.
        weights: as matrices, shape (G, q, p).
        keys: one per sample.
    """
    groups, outputs, columns = weights.shape
    lead = len(x) // len(keys)  # a sample may spread over several entries: windows, frames
    places = sample_positions(linear, x.shape, max(1, _ROWS // lead), keys)
    each = places.size // len(keys)  # positions of a sample
    repeats = max(1, _ROWS // each)
    read = patches(x, linear, places).repeat(repeats, axis=1)  # (G, M, p)
    total, every = groups * outputs, each * repeats
    steps = np.arange(every) * total // every  # so that a sample's rows differ in their outputs
    # by their norms, not by number, so that channels in another order are read alike
    order = np.argsort(np.square(weights, dtype=np.float64).sum(axis=2), axis=None, kind="stable")
    chosen = order[(keys.astype(np.int64)[:, None] + steps) % total].ravel()
    taps = int(np.prod(linear.kernel, dtype=np.int64))
    added = np.zeros((len(chosen), groups, columns // taps), np.float32)
    for number, weight in enumerate(weights):
        mine = np.flatnonzero(chosen // outputs == number)
        products = read[number, mine] * weight[chosen[mine] - number * outputs]
        added[mine, number] = products.reshape(len(mine), columns // taps, taps).sum(axis=2)
    return added.reshape(len(chosen), -1), chosen


class _Contributions:
    """Rows of what channels add."""

    def start(self, analysis: Analysis, settings: Calibration) -> Fold:
        """Begin with nothing seen."""
        return _Fold(analysis, settings)


COLLECTORS.register("contributions")(_Contributions())
