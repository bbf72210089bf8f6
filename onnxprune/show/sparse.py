"""What a sparsification did, as data: for the table, for `--json`, for Python."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from ..measure.evaluate import Evaluation
from ..measure.latency import Latency


@dataclasses.dataclass(frozen=True)
class SparseLayer:
    """One weight of a linear operator.

    Attributes:
        name: in the file.
        shape: of the weight.
        before, after: share of its values that are not zero.
        reason: why it was left as it is; None if it was not.
    """

    name: str
    shape: tuple[int, ...]
    before: float
    after: float
    reason: str | None

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class SparseReport:
    """The result of `sparsify`.

    Attributes:
        model: the input file.
        output: the file written.
        sparsity: the pattern asked for.
        method: who chose the zeros.
        settings: of the method.
        layers: every weight of a linear operator.
        before, after: share of the values of all of these that are not zero.
        calibration, held_out: numbers of samples.
        evaluation: the new model on held-out samples, against the original; None without samples.
        latency: of both files, measured in turns.
        seconds: what each step took.
        notes: what the user should know.
    """

    model: Path
    output: Path
    sparsity: str
    method: str
    settings: dict[str, Any]
    layers: tuple[SparseLayer, ...]
    before: float
    after: float
    calibration: int
    held_out: int
    evaluation: Evaluation | None
    latency: Latency
    seconds: dict[str, float]
    notes: tuple[str, ...]


def density(layers: tuple[SparseLayer, ...]) -> tuple[float, float]:
    """Return the share of all values that are not zero, before and after."""
    total = sum(layer.size for layer in layers)
    shares = ((layer.size * layer.before, layer.size * layer.after) for layer in layers)
    before, after = (sum(column) / total for column in zip(*shares, strict=True))
    return before, after
