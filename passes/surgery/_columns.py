"""Which inputs and outputs of linear operators a mask keeps, as columns and rows of their matrices."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from onnxprune.core.analysis import Bools, Ints, Mask
from onnxprune.core.declared import Linear
from onnxprune.core.graph import Graph


def kept_outputs(mask: Mask, linear: Linear) -> Ints:
    """Return the kept positions of the operator's outputs, ascending."""
    gone = mask.gone_at(linear.weight, linear.weight_out)
    size = mask.analysis.graph.weights[linear.weight].shape[linear.weight_out]
    return np.arange(size) if gone is None else np.flatnonzero(~gone)


def lost_linears(mask: Mask) -> Iterator[tuple[Linear, Bools]]:
    """Yield the linear operators that lost inputs, with which positions of x they lost."""
    for linear in mask.analysis.linears():
        gone = mask.gone_at(linear.x, linear.x_axis)
        if gone is not None:
            yield linear, gone


def shared_weights(graph: Graph) -> set[str]:
    """Return the weights that several nodes read: refitting one reader would break the tie."""
    counts = Counter(name for node in graph.nodes for name in node.input if name in graph.weights)
    return {name for name, count in counts.items() if count > 1}


@dataclasses.dataclass(frozen=True)
class KeptBlock:
    """What is kept of a linear operator, as a block of its matrices (see `weight_matrices`).

    Attributes:
        groups: convolution groups that stay.
        rows: shape (groups, q'): kept outputs within each of them.
        columns: kept columns (channel, tap) within a group, the same for all.
    """

    groups: Ints
    rows: NDArray[np.int64]
    columns: Ints

    def cut(self, matrices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the kept part of (G, q, p) matrices."""
        return matrices[self.groups[:, None, None], self.rows[:, :, None], self.columns]


def kept_block(mask: Mask, linear: Linear) -> KeptBlock | None:
    """Describe what is kept; None if convolution groups keep different numbers of outputs."""
    shape = mask.analysis.graph.weights[linear.weight].shape
    outputs = np.zeros(shape[linear.weight_out], np.bool_)
    outputs[kept_outputs(mask, linear)] = True
    per_group = outputs.reshape(linear.groups, -1)
    groups = np.flatnonzero(per_group.any(axis=1))
    counts = per_group[groups].sum(axis=1)
    if len(set(counts.tolist())) != 1:
        return None
    rows = np.stack([np.flatnonzero(row) for row in per_group[groups]])
    gone = mask.gone_at(linear.weight, linear.weight_in)
    channels = np.arange(shape[linear.weight_in]) if gone is None else np.flatnonzero(~gone)
    taps = int(np.prod(linear.kernel, dtype=np.int64))
    columns = (channels[:, None] * taps + np.arange(taps)).ravel()
    return KeptBlock(groups, rows, columns)
