"""What all statistics from derivatives share: the engine, samples in pieces, labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.core.analysis import Analysis
from onnxprune.core.contracts import Calibration
from onnxprune.core.errors import needs_torch
from onnxprune.core.graph import Array
from onnxprune.core.patches import Keys
from onnxprune.core.stream import Probes, label_key

if TYPE_CHECKING:
    from onnxprune.torch.gradients import Differentiable

_HELD_BYTES = 256 << 20  # of activations that wait for the way back
_LARGEST = 64  # samples at once

Piece = tuple[dict[str, Array], Keys, Array | None]  # inputs, keys, labels


def engine(analysis: Analysis) -> Differentiable:
    """Return the model as PyTorch differentiates it.

    Raises:
        OnnxPruneError: if PyTorch is not installed, or an operator is not carried to it.
    """
    with needs_torch("a criterion by gradients", "choose one without, such as reconstruction"):
        from onnxprune.torch.gradients import Differentiable
    return Differentiable(analysis.graph)


class Derived:
    """Reads the inputs and labels of a run, in pieces that fit in memory on the way back."""

    def __init__(self, analysis: Analysis, settings: Calibration, at_once: int = _LARGEST) -> None:
        self.engine = engine(analysis)
        self.label = None if settings.labels is None else label_key(settings.labels)
        self.inputs = tuple(value.name for value in analysis.graph.inputs)
        self.probes = Probes(self.inputs)
        each = sum(4 * int(np.prod(s, dtype=np.int64)) for s in settings.shapes.values())
        fits = int(np.clip(_HELD_BYTES // max(each // settings.count, 1), 1, _LARGEST))
        self.at_once = settings.count if _is_fixed(analysis) else min(fits, at_once)

    def pieces(self, values: Mapping[str, Array], keys: Keys) -> Iterator[Piece]:
        """Yield a run in pieces; what is the same for all its samples is in each of them."""
        count = len(keys)
        feeds = {name: values[name] for name in self.inputs}
        labels = None if self.label is None else np.asarray(values[self.label])
        for start in range(0, count, self.at_once):
            part = slice(start, start + self.at_once)
            rows = {n: x[part] if x.shape[:1] == (count,) else x for n, x in feeds.items()}
            yield rows, keys[part], None if labels is None else labels[part]


def _is_fixed(analysis: Analysis) -> bool:
    """Tell whether the model takes one number of samples only."""
    shapes = (v.type.tensor_type.shape.dim for v in analysis.graph.inputs)
    return any(len(dims) > 0 and dims[0].dim_value > 0 for dims in shapes)
