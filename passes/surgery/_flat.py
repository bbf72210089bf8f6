"""Where the readers of a tensor are flat: values that they cannot tell apart need not be met.

A ReLU makes zero of every negative number. A refit that aims at the number the original had there
spends its few weights on what nobody sees: any other negative number is as good.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import NodeProto, helper

from onnxprune.core.graph import Array, Graph

from ._refit import Floats, Normal, Singles

_HELD = 1 << 30  # bytes of rows that are held for further steps; an operator with more gets none
Ends = tuple[float, float]
EVERYWHERE: Ends = (-math.inf, math.inf)  # nothing is flat


def flat_ends(graph: Graph, tensor: str) -> Ends:
    """Return lo and hi: all that read `tensor` see anything up to lo alike, and anything from hi on.

    Infinite where that is not so: a reader of another kind, or somebody outside the graph.
    """
    readers = [graph.nodes[i] for i in graph.consumers().get(tensor, [])]
    if not readers or tensor in graph.bound:
        return EVERYWHERE
    ends = [_ends(graph, node, tensor) for node in readers]
    return min(lo for lo, _ in ends), max(hi for _, hi in ends)


def _ends(graph: Graph, node: NodeProto, tensor: str) -> Ends:
    if node.op_type == "Relu":
        return 0.0, math.inf
    if node.op_type != "Clip" or node.input[0] != tensor:
        return EVERYWHERE
    given = {a.name: float(helper.get_attribute_value(a)) for a in node.attribute}
    found = [given.get("min", -math.inf), given.get("max", math.inf)]
    for slot, name in enumerate(node.input[1:3]):
        if not name:
            continue
        if name not in graph.weights:
            return EVERYWHERE
        found[slot] = float(np.asarray(graph.weights[name].array).ravel()[0])
    lo, hi = found
    return lo, hi


class Seen:
    """The rows of one operator, with the interval in which each output is seen as it should be."""

    def __init__(self, ends: Ends, steps: int) -> None:
        """Start without rows.

        Args:
            ends: of what the outputs flow into.
            steps: refits that follow the first.
        """
        self.ends, self.steps = ends, steps if ends != EVERYWHERE else 0
        self.rows: list[tuple[Singles, Array, Array]] = []

    def add(self, x: Singles, target: Array, rest: Array | None) -> None:
        """Hold rows.

        Args:
            x: what the operator reads, shape (G, rows, p).
            target: what should flow on, shape (rows, G * q).
            rest: what is added to the outputs on the way there, if anything is.
        """
        if not self.steps or (len(self.rows) + 1) * x.nbytes > _HELD:
            self.steps, self.rows = 0, []
            return
        lo, hi = self.ends
        least = np.where(target <= lo, -np.inf, np.minimum(target, hi))
        most = np.where(target >= hi, np.inf, np.maximum(target, lo))
        if rest is not None:
            least, most = least - rest, most - rest
        groups = len(x)
        self.rows.append((x, by_group(least, groups), by_group(most, groups)))

    def refined(self, equations: Normal, old: Floats, ridge: Floats) -> tuple[Floats, Floats]:
        """Return weights (G, q, p) and biases (G, q): the refit, and those that follow it.

        The ridge is one per output, shape (G, q).
        """
        weight, bias = equations.solve(old, ridge)
        for _ in range(self.steps):
            aims = []
            for x, least, most in self.rows:
                given = x @ weight.transpose(0, 2, 1).astype(x.dtype) + bias[:, None].astype(
                    x.dtype
                )
                aims.append((x, np.clip(given, least, most)))
            equations.aim(aims)
            weight, bias = equations.solve(old, ridge)
        return weight, bias


def by_group(rows: Array, groups: int) -> Array:
    """Split output columns by convolution group: (rows, G * q) -> (G, rows, q)."""
    return np.ascontiguousarray(rows.reshape(len(rows), groups, -1).transpose(1, 0, 2))
