"""Scores: what criteria say of every unit of a model, as data and as a JSON file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from .document import STRICT, read_document, write_document
from .file import DataId, ModelId, Ranges, Settings, check_ranges

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class ScoredGroup:
    """A group of units that can be chosen among each other.

    Attributes:
        name: the group's name.
        kind: "inner", "stream", "grid", or the part of the interface that was unlocked.
        width: channels along the axis of its first member, those of other groups included.
        units: per unit, which of those channels it owns.
    """

    name: str
    kind: str
    width: int
    units: tuple[Ranges, ...]

    def __post_init__(self) -> None:
        """Refuse units that are not on the axis, and a group of none."""
        if not self.units:
            raise ValueError(f"group '{self.name}' has no units")
        for owned in self.units:
            check_ranges(0, self.width, owned)


@dataclasses.dataclass(frozen=True)
class RankedGroup:
    """What a criterion says of one group.

    Attributes:
        scores: one per unit; higher = keep.
        kept: numbers, within the group, of the units that the criterion itself would keep; None where
            it only ranks.
        curves: what it looked at on the way, by name.
        notes: what the user should know.
    """

    scores: tuple[float, ...]
    kept: Ranges | None
    curves: dict[str, tuple[float, ...]]
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse kept units that do not exist."""
        if self.kept is not None:
            check_ranges(0, len(self.scores), self.kept)

    @property
    def count(self) -> int | None:
        """How many units the criterion itself would keep."""
        return None if self.kept is None else sum(stop - start for start, stop in self.kept)


@dataclasses.dataclass(frozen=True)
class Scored:
    """A criterion with its settings, and what it says.

    Attributes:
        name: of the criterion.
        settings: all of them.
        comparable: whether scores of different groups may be compared.
        groups: one ranking per group.
    """

    name: str
    settings: Settings
    comparable: bool
    groups: tuple[RankedGroup, ...]

    def label(self, others: tuple[Scored, ...]) -> str:
        """Return the name, with those settings that tell it from others of that name."""
        alike = [other.settings for other in others if other.name == self.name]
        apart = {k: v for k, v in self.settings.items() if any(s.get(k) != v for s in alike)}
        told = ",".join(f"{key}={value}" for key, value in sorted(apart.items()))
        return f"{self.name}:{told}" if told else self.name


@dataclasses.dataclass(frozen=True)
class Scores:
    """What criteria say of the units of one model, from one calibration run.

    Attributes:
        model: which file.
        groups: in the order of the model.
        criteria: as asked for.
        data: which samples; None without.
        labels: key of the labels; None where the model's own outputs stand in.
        rows: output positions read per sample and operator.
        seed: of everything drawn.
        unlocked: what might shrink of the interface, as it was asked for.
        versions: of what computed it.
        notes: about the samples.
    """

    __pydantic_config__ = STRICT

    model: ModelId
    groups: tuple[ScoredGroup, ...]
    criteria: tuple[Scored, ...]
    data: DataId | None
    labels: str | None
    rows: int
    seed: int
    unlocked: tuple[str, ...]
    versions: dict[str, str]
    notes: tuple[str, ...] = ()
    kind: Literal["scores"] = "scores"
    format: int = FORMAT

    def __post_init__(self) -> None:
        """Refuse rankings that are not of these groups."""
        sizes = [len(group.units) for group in self.groups]
        for scored in self.criteria:
            found = [len(ranked.scores) for ranked in scored.groups]
            if found != sizes:
                raise ValueError(f"'{scored.name}' does not rank the units of these groups")


_SCORES = TypeAdapter(Scores)


def write_scores(scores: Scores, path: Path | str) -> None:
    """Write scores, whole or not at all.

    Raises:
        OnnxPruneError: if they cannot be written.
    """
    write_document(scores, path)


def read_scores(path: Path | str) -> Scores:
    """Read what `onnxprune score` wrote.

    Raises:
        OnnxPruneError: in one line, if it is missing, something else, or of another format.
    """
    return read_document(path, _SCORES, "scores", FORMAT)
