"""Random samples, only when asked for: `random` or `random:256`.

Floats are N(0, 1), integers valid table indices, booleans fair coins. Real activations are sparse,
correlated and of low rank; those of noise are not. So channel statistics, and with them the choice
and the repair, fit a use that the model never sees: the result carries a note that says so.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from onnxprune.core.contracts import SOURCES, InputSpec, Samples, SourceRequest
from onnxprune.core.graph import Array
from onnxprune.core.input_shapes import Shape

from ._columns import Ints
from ._fit import fit

_FORM = re.compile(r"random(:(\d+))?")
_COUNT = 64
_NOTE = (
    "random samples: channels are judged and repaired on noise, not on what the model will see; "
    "expect far worse accuracy than with a few hundred real samples"
)


class _Random:
    """Noise in the shape of the model's inputs."""

    form = "random or random:256 (noise: poor, and only when asked for)"

    def accepts(self, data: object) -> bool:
        """Accept `random` and `random:N`."""
        return isinstance(data, str) and _FORM.fullmatch(data) is not None

    def open(self, data: object, request: SourceRequest) -> Samples:
        """Draw the samples."""
        match = _FORM.fullmatch(str(data))
        count = int(match[2]) if match and match[2] else _COUNT
        typical = request.typical()
        columns = {
            spec.name: _Drawn(spec, count, typical[spec.name], (request.seed, number))
            for number, spec in enumerate(request.inputs)
        }
        return fit(columns, request, str(data), random=True, notes=(_NOTE,))


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """Noise that is drawn when read: sample i depends on the seed and i alone."""

    spec: InputSpec
    count: int
    run: Shape
    seed: tuple[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """One row of a run per sample, or a whole run where its first axis is no batch."""
        first = self.spec.shape[0] if self.spec.shape else None
        whole = not self.run or first not in {None, 1}
        return (self.count, *self.run) if whole else (self.count, *self.run[1:])

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Of the input."""
        return self.spec.dtype

    def rows(self, index: Ints) -> Array:
        """Draw the samples of these numbers."""
        rows = np.empty((len(index), *self.shape[1:]), self.dtype)
        for row, number in enumerate(index):
            rows[row] = self._draw(np.random.default_rng((*self.seed, int(number))))
        return rows

    def _draw(self, rng: np.random.Generator) -> Array:
        shape = self.shape[1:]
        if self.dtype.kind == "b":
            return rng.random(shape) < 0.5
        if self.dtype.kind in "iu":
            return rng.integers(0, self.spec.below or 2, shape)
        return rng.standard_normal(shape, np.float32)


SOURCES.register("random")(_Random())
