"""The contract of what decides which whole blocks are left out; registered in `DEPTH`."""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .analysis import Analysis
from .blocks import Block
from .contracts import Progress, Samples, silent
from .errors import OnnxPruneError
from .registry import Registry
from .stats import Statistics

Floats = NDArray[np.float64]
Level = Literal["block", "layer"]


@dataclasses.dataclass(frozen=True)
class DepthEvidence:
    """What a depth score may look at.

    Attributes:
        analysis: of the model without the blocks that are gone already.
        blocks: that may go, in topological order; they do not overlap.
        points: tensors whose activations are compared, in topological order.
        ends: of each block, the numbers of the points where it begins and ends.
        statistics: of the calibration run; None if the score reads none.
        samples: of the model's inputs; None where there are none.
        provider: onnxruntime execution provider.
        seed: for what is drawn.
    """

    analysis: Analysis
    blocks: tuple[Block, ...]
    points: tuple[str, ...]
    ends: tuple[tuple[int, int], ...]
    statistics: Statistics | None = None
    samples: Samples | None = None
    provider: str = "CPUExecutionProvider"
    seed: int = 0

    def required(self) -> Statistics:
        """Return the statistics.

        Raises:
            OnnxPruneError: if there are none.
        """
        if self.statistics is None:
            raise OnnxPruneError("this depth score needs sample inputs: give --data")
        return self.statistics


@dataclasses.dataclass(frozen=True)
class DepthRanking:
    """What a depth score says of the blocks.

    Attributes:
        scores: one finite number per block, float64, shape (B,); lower goes first.
        goes: the blocks that it would leave out by itself, bool, shape (B,); None where it only
            ranks and a number or a budget decides.
        clusters: points that are alike, by number, for the report.
    """

    scores: Floats
    goes: NDArray[np.bool_] | None = None
    clusters: tuple[tuple[int, ...], ...] = ()


class DepthScore(Protocol):
    """Ranks blocks; a frozen dataclass whose fields are its settings.

    Attributes:
        level: which blocks compete: "block", single residual regions (attention and feed-forward
            halves of transformers), or "layer", whole layers where blocks repeat, else the same.
        needs_samples: whether it runs the model over samples itself.
    """

    @property
    def level(self) -> Level:
        """Which blocks compete."""
        ...

    @property
    def needs(self) -> frozenset[str]:
        """Which statistics it reads, with the settings it has."""
        ...

    @property
    def needs_samples(self) -> bool:
        """Whether it runs the model over samples itself."""
        ...

    @property
    def guard(self) -> Guard | None:
        """How far it may go by itself; None where it only ranks."""
        ...

    def rank(self, evidence: DepthEvidence, progress: Progress = silent) -> DepthRanking:
        """Score every block."""
        ...

    def finer(self) -> DepthScore | None:
        """Return what takes out less at a time, for when too much was lost; None: nothing does."""
        ...


@dataclasses.dataclass(frozen=True)
class Guard:
    """How far a score that chooses by itself may go.

    Attributes:
        threshold: largest drop of accuracy or agreement that is accepted, as a share.
        rounds: at most so many.
    """

    threshold: float
    rounds: int


class Ranks:
    """A score that ranks, and leaves to others how many blocks go."""

    needs_samples = False
    guard: Guard | None = None

    @property
    def needs(self) -> frozenset[str]:
        """Which statistics it reads: none."""
        return frozenset()

    def finer(self) -> DepthScore | None:
        """Return None: it takes out nothing by itself."""
        return None


DEPTH: Registry[DepthScore] = Registry("depth score")
