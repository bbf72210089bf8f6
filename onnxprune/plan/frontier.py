"""The frontier: what a sweep over budgets made, as data and as a JSON file beside the models."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from .document import STRICT, read_document, write_document
from .file import DataId, ModelId, Step

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class PointTime:
    """How long one run of a file took, measured in turns with all others.

    Attributes:
        median: milliseconds.
        ratio: how many times as fast as the original.
        low, high: where that ratio lies, at the confidence of `bench`.
    """

    median: float
    ratio: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Point:
    """One file of a sweep.

    Attributes:
        asked: the share of the figure that might remain.
        model: name of the file, which lies beside the frontier, and its hash.
        plan: name of its plan.
        macs, params, bytes: what it comes to; bytes of the file.
        lost: how much worse it is than the original: a share of answers, or the output error; below
            0 if it is better.
        bound: the true loss is at most so much; for all points at once, at the confidence of the frontier.
        accuracy, agreement, error: against labels and the original; None where there is no such thing.
        gap: of its proof; None where it was not made.
        time: None where nothing was timed.
        dominated: the file that is nowhere worse than this one and somewhere better; None: no other is.
    """

    asked: float
    model: ModelId
    plan: str
    macs: float
    params: float
    bytes: float
    lost: float
    bound: float
    accuracy: float | None
    agreement: float | None
    error: float | None
    gap: float | None
    time: PointTime | None = None
    dominated: str | None = None

    @property
    def costs(self) -> tuple[float, ...]:
        """What a point is compared by, the less the better."""
        return (self.lost, self.macs, self.params, *([1 / self.time.ratio] if self.time else []))


@dataclasses.dataclass(frozen=True)
class Frontier:
    """All files of a sweep, and what they are compared with.

    Attributes:
        model: the original.
        data: samples of the calibration.
        samples: that judged, none of them used for anything else.
        by: the figure that was swept over: "macs", "params", "size" or "latency".
        metric: what `lost` is of: "accuracy", "agreement" or "error".
        confidence: of all bounds at once; 0.5: the bounds are what was measured.
        macs, params, bytes: of the original.
        accuracy: of the original; None without labels.
        milliseconds: of one run of the original; None where nothing was timed.
        machine: where that was; empty where nothing was.
        criterion, repair: what decided and refitted.
        seed: of everything drawn.
        versions: of what computed it.
        points: the mildest first.
        notes: what the user should know, such as points that were left out.
    """

    __pydantic_config__ = STRICT

    model: ModelId
    data: DataId
    samples: int
    by: str
    metric: str
    confidence: float
    macs: float
    params: float
    bytes: float
    accuracy: float | None
    milliseconds: float | None
    machine: str
    criterion: Step
    repair: Step
    seed: int
    versions: dict[str, str]
    points: tuple[Point, ...]
    notes: tuple[str, ...] = ()
    kind: Literal["frontier"] = "frontier"
    format: int = FORMAT


def with_dominated(points: Sequence[Point]) -> tuple[Point, ...]:
    """Mark points that another one dominates: no worse in loss, MACs, parameters and time, better in one."""
    return tuple(
        dataclasses.replace(point, dominated=next(iter(_dominating(point, points)), None))
        for point in points
    )


def _dominating(point: Point, points: Sequence[Point]) -> list[str]:
    """Return the files that dominate a point."""
    return [
        other.model.name
        for other in points
        if other.costs != point.costs
        and all(a <= b for a, b in zip(other.costs, point.costs, strict=True))
    ]


_FRONTIER = TypeAdapter(Frontier)


def write_frontier(frontier: Frontier, path: Path | str) -> None:
    """Write a frontier, whole or not at all.

    Raises:
        OnnxPruneError: if it cannot be written.
    """
    write_document(frontier, path)


def read_frontier(path: Path | str) -> Frontier:
    """Read what `prune --sweep` wrote.

    Raises:
        OnnxPruneError: in one line, if it is missing, something else, or of another format.
    """
    return read_document(path, _FRONTIER, "frontier", FORMAT)
