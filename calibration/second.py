"""Centred second moments of the patches each linear operator reads: the matter of repair.

Rows are patches at sampled output positions (`onnxprune.core.patches`), never at padding. They are
gathered into blocks of a fixed length, each block is one symmetric BLAS product in float32 about a
pilot mean, and blocks are summed in float64:

    C = 1/m sum_i (x_i - a)(x_i - a)^T - (xbar - a)(xbar - a)^T,   a = mean of the first block.

The pilot mean keeps the subtraction from cancelling where a mean is large against its spread. That
blocks have a fixed length makes the result the same however samples are batched. Operators that
read one tensor with one geometry share one matrix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from onnxprune.core.analysis import Analysis
from onnxprune.core.contracts import COLLECTORS, Calibration, Fold
from onnxprune.core.declared import Linear
from onnxprune.core.graph import Array
from onnxprune.core.padding import padding_masks
from onnxprune.core.patches import Keys, patches, row_width, sample_positions
from onnxprune.core.stats import Floats, SecondMoments, Statistics
from onnxprune.core.stream import Probes

from ._places import FLOATS

_BLOCK = (256, 1024)  # rows per product: a quarter of the columns, within these bounds


class _Products:
    """Running second moments of rows of shape (G, m, p)."""

    def __init__(self, groups: int, columns: int) -> None:
        low, high = _BLOCK
        self.block = np.empty((groups, min(max(columns // 4, low), high), columns), np.float32)
        self.filled = 0
        self.rows = 0
        self.pilot: Array | None = None
        self.sum = np.zeros((groups, columns))
        self.products = np.zeros((groups, columns, columns))

    def add(self, rows: Array) -> None:
        """Fold in rows, (G, m, p), a block at a time."""
        taken = 0
        while taken < rows.shape[1]:
            part = rows[:, taken : taken + self.block.shape[1] - self.filled]
            self.block[:, self.filled : self.filled + part.shape[1]] = part
            taken += part.shape[1]
            self.filled += part.shape[1]
            if self.filled == self.block.shape[1]:
                self._flush()

    def _flush(self) -> None:
        rows = self.block[:, : self.filled]
        if self.pilot is None:
            self.pilot = rows.mean(axis=1, keepdims=True)
        rows -= self.pilot
        self.sum += rows.sum(axis=1, dtype=np.float64)
        for group, part in enumerate(rows):  # x.T @ x is one symmetric product in BLAS
            self.products[group] += part.T @ part
        self.rows += self.filled
        self.filled = 0

    def moments(self) -> SecondMoments:
        """Return what was seen; the running sums are used up."""
        if self.filled:
            self._flush()
        if self.pilot is None:
            raise ValueError("no rows were added")
        drift: Floats = self.sum / self.rows
        covariance = self.products
        covariance /= self.rows
        for group, shift in enumerate(drift):
            covariance[group] -= np.outer(shift, shift)
        return SecondMoments(self.rows, drift + self.pilot[:, 0], covariance)


def _reading(linear: Linear) -> tuple[object, ...]:
    """Return what decides the rows: the tensor and the geometry."""
    return (
        linear.x, linear.x_axis, linear.kernel, linear.strides, linear.dilations, linear.pads, linear.groups,
    )  # fmt: skip


class _Fold:
    """Second moments of every linear operator that is not too wide."""

    def __init__(self, analysis: Analysis, settings: Calibration) -> None:
        self.rows = settings.rows
        self.skipped: dict[int, str] = {}
        self.nodes: dict[int, tuple[object, ...]] = {}
        self.linears: dict[tuple[object, ...], Linear] = {}
        self.products: dict[tuple[object, ...], _Products] = {}
        for linear in analysis.linears():
            reason = _refusal(linear, analysis, settings)
            if reason is not None:
                self.skipped[linear.node] = reason
                continue
            key = self.nodes[linear.node] = _reading(linear)
            if key not in self.linears:
                self.linears[key] = linear
                width = row_width(linear, settings.shapes[linear.x])
                self.products[key] = _Products(linear.groups, width)
        known = padding_masks(analysis.graph)
        read = [linear.x for linear in self.linears.values()]
        self.masks = {x: known[x] for x in read if x in known}
        self.probes = Probes(tuple(dict.fromkeys([*read, *self.masks.values()])))

    def add(self, values: Mapping[str, Array], keys: Keys) -> None:
        """Fold in one run."""
        for key, linear in self.linears.items():
            x = values[linear.x]
            mask = values[self.masks[linear.x]] if linear.x in self.masks else None
            positions = sample_positions(linear, x.shape, self.rows, keys, mask)
            self.products[key].add(patches(x, linear, positions))

    def finish(self, statistics: Statistics) -> Statistics:
        """Return `statistics` with the second moments."""
        shared = {}
        for key in list(self.products):
            shared[key] = self.products.pop(key).moments()
        second = {node: shared[key] for node, key in self.nodes.items()}
        return dataclasses.replace(
            statistics, second=second, skipped={**statistics.skipped, **self.skipped}
        )


def _refusal(linear: Linear, analysis: Analysis, settings: Calibration) -> str | None:
    """Say why an operator is left out; None if it is not."""
    shape = settings.shapes.get(linear.x)
    if shape is None:
        return f"the shape of '{linear.x}' is not known"
    if analysis.shapes.dtypes.get(linear.x) not in FLOATS:
        return f"'{linear.x}' is not of a floating-point type"
    if linear.x in analysis.graph.weights:
        return f"'{linear.x}' is a constant"
    width = row_width(linear, shape)
    if width > settings.widest:
        return f"it reads {width} values per output position, more than {settings.widest}"
    return None


class _Second:
    """Centred second moments of patches."""

    def start(self, analysis: Analysis, settings: Calibration) -> Fold:
        """Begin with nothing seen."""
        return _Fold(analysis, settings)


COLLECTORS.register("second")(_Second())
