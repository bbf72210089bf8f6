"""Refits that aim at what the readers of an operator see of it.

A ReLU makes zero of every negative number. A refit that aims at the number the original had there
spends its few weights on what nobody sees: any other negative number is as good. A sigmoid is flat but for
a little: nearly all scores of a detector are background, and a refit that minds how far below zero each
of them is has nothing left for the few that are objects.
"""

from __future__ import annotations

import numpy as np

from onnxprune.core.graph import Array

from ._ends import Ends
from ._refit import Floats, Normal, Singles

_WORTH = 0.97  # of the error: where a step leaves more of it, it was the last
_HELD = 1 << 30  # bytes of rows that are held for further steps; an operator with more gets none


class Seen:
    """The rows of one operator, with the interval in which each output is seen as it should be."""

    def __init__(self, ends: Ends, steps: int) -> None:
        """Start without rows.

        Args:
            ends: of what the outputs flow into, each of shape (G * q,).
            steps: refits that follow the first, at most.
        """
        self.ends = [end.astype(np.float32) for end in ends]
        self.steps = steps if np.isfinite(self.ends).any() else 0
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

        They end where one lowers the squared error that is seen by little.
        The ridge is one per output, shape (G, q).
        """
        weight, bias = equations.solve(old, ridge)
        before = np.inf
        for _ in range(self.steps):
            aims, seen = [], 0.0
            for x, least, most in self.rows:
                given = x @ weight.transpose(0, 2, 1).astype(x.dtype) + bias[:, None].astype(
                    x.dtype
                )
                aim = np.clip(given, least, most)
                aims.append((x, aim))
                seen += float(((aim - given) ** 2).sum(dtype=np.float64))
            if seen > _WORTH * before:
                break
            before = seen
            equations.aim(aims)
            weight, bias = equations.solve(old, ridge)
        return weight, bias


def by_group(rows: Array, groups: int) -> Array:
    """Split output columns by convolution group: (rows, G * q) -> (G, rows, q)."""
    return np.ascontiguousarray(rows.reshape(len(rows), groups, -1).transpose(1, 0, 2))
