"""Time as a sum of products of lengths, fitted to what every kernel took in cut copies of the model.

A kernel that multiplies takes a + b (multiply-accumulates) + c (elements it writes), with a, b, c at
least zero: start, arithmetic, memory. One that does not multiply takes a + c (elements). Both are taken
as they are and, with weights of their own, in whole steps of the provider: its convolutions compute 24
channels in the time of 32, and the fit finds which kernels do. These are sums of products of axis lengths,
as MACs are, so a budget in time is met by the same exact bookkeeping as one in MACs.

Kernels are timed where they stand, in whole models after the provider's own fusions; what is fused
behind a node counts as that node. Times are shares of what the original takes in the same turn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from ..core.cost import NOBODY, CostModel, Products, Term, in_blocks
from ..core.shapes import Instance

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Observed:
    """One cut copy, as it ran.

    Attributes:
        lengths: of the cost model.
        ratio: its time as a share of the original's.
        kernels: shares of that time, by the node that a kernel stands for.
    """

    lengths: Floats
    ratio: float
    kernels: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class LatencyModel:
    """A fitted sum of products.

    Attributes:
        products: share of the original's time, which comes to 1; each is that of a node.
        milliseconds: one run of the original.
        error: median over the copies it was fitted to of |predicted / measured - 1|.
    """

    products: Products
    milliseconds: float
    error: float

    def ratio(self, lengths: Floats) -> float:
        """Return the predicted share of the original's time."""
        return self.products.sum(lengths)


def fitted(
    cost: CostModel,
    instance: Instance,
    copies: Sequence[Observed],
    milliseconds: float,
    step: int = 1,
) -> LatencyModel:
    """Fit every kernel, then scale all so that the original comes out right.

    Args:
        cost: of the original.
        instance: the shapes it was timed at.
        copies: what was observed, the original among them.
        milliseconds: one run of the original.
        step: channels that the provider computes at once; 1: as many as there are.
    """
    features = _Features(cost, instance, step)
    terms, blocks = list[Term](), list[float]()
    lengths = np.array([copy.lengths for copy in copies])
    for name in sorted({name for copy in copies for name in copy.kernels}):
        times = np.array([copy.kernels.get(name, 0.0) for copy in copies])
        parts = features.of(name)
        columns = np.stack([_evaluated(*part, lengths) for part in parts], axis=1)
        for (part, block), weight in zip(parts, _least(columns, times), strict=True):
            found = [(rows, constant * float(weight), owner) for rows, constant, owner in part]
            terms += found if weight > 0 else []
            blocks += [float(block)] * len(found) if weight > 0 else []
    products = Products.of(terms, len(cost.full) - 1, np.array(blocks))
    model = LatencyModel(products.scaled(1 / products.sum(cost.full)), milliseconds, 0.0)
    off = [model.ratio(copy.lengths) / copy.ratio - 1 for copy in copies]
    return dataclasses.replace(model, error=float(np.median(np.abs(off))))


class _Features:
    """What a kernel's time may grow with, as sums of products of lengths."""

    def __init__(self, cost: CostModel, instance: Instance, step: int) -> None:
        nodes = cost.analysis.graph.nodes
        self.number = {node.name or node.output[0]: i for i, node in enumerate(nodes)}
        self.cost, self.instance, self.step = cost, instance, step
        self.macs: dict[str, list[Term]] = {}
        macs = cost.products("macs")
        for number, rows, constant in zip(macs.owners, macs.rows, macs.constants, strict=True):
            name = nodes[number].name or nodes[number].output[0]
            term = (rows.tolist(), float(constant), self.number[name])
            self.macs.setdefault(name, []).append(term)

    def of(self, name: str) -> list[tuple[list[Term], int]]:
        """Return a kernel's features, each with the blocks that its lengths count in.

        They are a constant, arithmetic, elements written; the last two also in whole steps.
        """
        owner = self.number.get(name, NOBODY)
        constant: list[Term] = [([], 1.0, owner)]
        if owner == NOBODY:  # a change of layout: it grows with all that is computed
            return [(constant, 1), ([term for terms in self.macs.values() for term in terms], 1)]
        written = [
            (*self.cost.tensor_term(tensor, self.instance.shapes[tensor]), owner)
            for tensor in self.cost.analysis.graph.nodes[owner].output
            if tensor in self.instance.shapes
        ]
        grows = [part for part in (self.macs.get(name, []), written) if part]
        steps = sorted({1, self.step})
        return [(constant, 1), *((part, step) for part in grows for step in steps)]


def _evaluated(part: Sequence[Term], block: int, lengths: Floats) -> Floats:
    """Return a sum of products at many lengths, counted in blocks: (N, R) -> (N,)."""
    total, lengths = np.zeros(len(lengths)), in_blocks(lengths, block)
    for rows, constant, _ in part:
        total += constant * lengths[:, rows].prod(axis=1)
    return total


def _least(columns: Floats, times: Floats) -> Floats:
    """Return the weights of columns, none negative, that explain the times best."""
    scale = np.maximum(columns.max(axis=0), 1e-300)
    weights, _ = nnls(columns / scale, times)
    found: Floats = weights / scale
    return found
