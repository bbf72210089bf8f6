"""Weights set to zero by size, or by size times what they read (Wanda, arXiv 2306.11695).

    magnitude: |W_ij|        wanda: |W_ij| |X_j|_2

compared within every output row i (or within every block of N:M); columns j are (channel, tap). Norms
are those of channels over samples and positions; at the borders, where taps read padding, the true norm
of a column is a little less.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from onnxprune.core.contracts import Floats
from onnxprune.core.errors import InternalError
from onnxprune.core.sparsity import SPARSIFIERS, Bools, Layer, Pattern


class Magnitude:
    """Drops the smallest weights of every row."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def apply(self, layer: Layer, pattern: Pattern) -> tuple[Floats, Bools]:
        """Return weights with zeros, and where they are."""
        return _silenced(layer.weight, pattern.zeros(np.abs(layer.weight), layer.taps))


class Wanda:
    """Drops the weights of every row that pass on least."""

    needs: ClassVar[frozenset[str]] = frozenset({"moments"})

    def apply(self, layer: Layer, pattern: Pattern) -> tuple[Floats, Bools]:
        """Return weights with zeros, and where they are."""
        if layer.norm is None:
            raise InternalError("wanda needs the norms of what the columns read")
        scores = np.abs(layer.weight) * layer.norm[:, None, :]
        return _silenced(layer.weight, pattern.zeros(scores, layer.taps))


def _silenced(weight: Floats, zeros: Bools) -> tuple[Floats, Bools]:
    return np.where(zeros, 0.0, weight), zeros


SPARSIFIERS.register("magnitude")(Magnitude())
SPARSIFIERS.register("wanda")(Wanda())
