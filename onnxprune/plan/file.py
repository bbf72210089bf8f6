"""The plan: what a prune decided, as data and as a JSON file.

What the file looks like, and how it is read, is in `document.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue, TypeAdapter

from ..core.faces import FaceKind
from ..structure.rest import FrozenView
from ..structure.unlock import Unlock
from .document import STRICT, read_document, write_document

Ints = NDArray[np.int64]
Ranges = tuple[tuple[int, int], ...]  # [start, stop), ascending, apart
Settings = Mapping[str, JsonValue]
Matrix = tuple[tuple[float | None, ...], ...]

FORMAT = 1
INDEX_TYPES = frozenset({"INT32", "INT64", "BOOL", "STRING"})  # of shapes and indices, not weights


@dataclasses.dataclass(frozen=True)
class ModelId:
    """Which file was pruned: its name and SHA-256 (`files.digest`)."""

    name: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class DataId:
    """Which samples were used: hash of the source, how many, and whether they were random."""

    digest: str
    samples: int
    random: bool


@dataclasses.dataclass(frozen=True)
class Step:
    """A registered criterion or repair by name, with all its settings."""

    name: str
    settings: Settings = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Change:
    """A figure of the whole model, before and after."""

    before: float
    after: float


@dataclasses.dataclass(frozen=True)
class PlannedGroup:
    """What became of one group.

    Attributes:
        name: the group's name.
        before, after: length of the axis of its first member, units of other groups included.
        removed: positions along that axis that this group's units lost.
        scores: one per unit, higher = keep; empty when none were computed.
    """

    name: str
    before: int
    after: int
    removed: Ranges
    scores: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class PlannedTensor:
    """What is kept of one initializer.

    Attributes:
        shape: before.
        kept: per axis the kept positions; None for a whole axis.
        dtype: ONNX element type.
        origin: name in the file, when one initializer is used several times and each got a copy.
        site: "<output of the first node that reads it>:<slot>", to find it when exporters rename.
        parameter: the PyTorch parameter, when the exporter kept its name.
        module: the PyTorch module that reads it, when the exporter noted it.
    """

    shape: tuple[int, ...]
    kept: tuple[Ranges | None, ...]
    dtype: str
    site: str
    origin: str | None = None
    parameter: str | None = None
    module: str | None = None

    def __post_init__(self) -> None:
        """Refuse ranges that are not kept positions of these axes."""
        if len(self.kept) != len(self.shape):
            raise ValueError(f"kept has {len(self.kept)} axes, shape has {len(self.shape)}")
        for axis, (ranges, size) in enumerate(zip(self.kept, self.shape, strict=True)):
            if ranges is not None:
                check_ranges(axis, size, ranges)

    @property
    def is_index(self) -> bool:
        """Tell whether it is a shape constant or index rather than a weight."""
        return self.dtype in INDEX_TYPES

    @property
    def shape_after(self) -> tuple[int, ...]:
        """Shape that is left."""
        lengths = zip(self.kept, self.shape, strict=True)
        return tuple(n if r is None else sum(b - a for a, b in r) for r, n in lengths)

    def positions(self, axis: int) -> Ints:
        """Return the kept positions along `axis`: `weight.take(positions, axis)` prunes it."""
        ranges = self.kept[axis]
        if ranges is None:
            return np.arange(self.shape[axis])
        return np.concatenate([np.arange(a, b) for a, b in ranges])


@dataclasses.dataclass(frozen=True)
class Edit:
    """An attribute, operator or shape constant that surgery changed, for information.

    Attributes:
        where: the tensor that the node makes, or the constant.
        what: name of the attribute, "op_type" or "value".
        before, after: numbers or text.
    """

    where: str
    what: str
    before: JsonValue
    after: JsonValue


@dataclasses.dataclass(frozen=True)
class PlannedBlock:
    """A block that was left out, before channels were removed from what remains.

    Attributes:
        name: the module it came from, or `y`.
        x, y: who reads y reads x instead.
        weights: weights of the file that went with it, and their shapes.
    """

    name: str
    x: str
    y: str
    weights: dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class DepthRound:
    """One look at the blocks of a model, and what was left out after it.

    Attributes:
        settings: of the score.
        scores: by name of the block; lower goes first.
        blocks: that were left out, beside those of earlier rounds that were accepted.
        drop: what that cost; None where nothing was compared.
        accepted: whether they stayed out.
        points: tensors where blocks begin or end, in order; empty if none were compared.
        similarity, spread: of all pairs of points, CKA and its standard error; None where it cannot
            be told.
        clusters: runs of points, by number, that are like their first.
        cuts: points, by number, where the blocks that were left out end.
    """

    settings: Settings
    scores: dict[str, float]
    blocks: tuple[str, ...]
    drop: float | None = None
    accepted: bool = True
    points: tuple[str, ...] = ()
    similarity: Matrix = ()
    spread: Matrix = ()
    clusters: tuple[tuple[int, ...], ...] = ()
    cuts: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class PlannedDepth:
    """How the blocks that were left out were chosen.

    Attributes:
        score: registered name.
        metric: what a drop is of: "accuracy", "agreement" or "error"; None where nothing was compared.
        judges: samples that judged it, which no repair had seen.
        rounds: in order.
    """

    score: str
    metric: str | None
    judges: int
    rounds: tuple[DepthRound, ...]


@dataclasses.dataclass(frozen=True)
class PlannedFace:
    """What became of a part of the interface: callers must feed or read the pruned model anew.

    Attributes:
        kind: "input", "output", or "vocabulary": values of integer inputs.
        tensor: the input, the output, or the table.
        axis: which axis of it.
        size: length before.
        kept: positions that stay; they count 0, 1, ... in the pruned model.
        ids: the inputs that hold positions on a vocabulary.
    """

    kind: FaceKind
    tensor: str
    axis: int
    size: int
    kept: Ranges
    ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse ranges that are not kept positions of this axis."""
        check_ranges(self.axis, self.size, self.kept)


@dataclasses.dataclass(frozen=True)
class PlannedInt8:
    """The pruned model in int8, measured against the original.

    Attributes:
        model: which file, beside the pruned one.
        bytes: of the files.
        milliseconds: of one run.
        speedup: median over pairs of runs of the original's time over its own.
        samples: held out, that it was compared on.
        accuracy: on those; None without labels.
        agreement, error: with the original; None where there is no such thing, or it is no number.
    """

    model: ModelId
    bytes: Change
    milliseconds: Change
    speedup: float
    samples: int = 0
    accuracy: Change | None = None
    agreement: float | None = None
    error: float | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """A prune, complete enough to repeat it, to re-apply it and to explain it.

    `frozen` and `opaque` are weights and nodes that could not go, by reason, some of them by name.
    """

    __pydantic_config__ = STRICT  # a misspelt key is an error, not a default

    model: ModelId
    tensors: dict[str, PlannedTensor]
    groups: tuple[PlannedGroup, ...]
    criterion: Step
    selection: Settings
    repair: Step | None
    data: DataId | None
    seed: int
    versions: dict[str, str]
    edits: tuple[Edit, ...] = ()
    blocks: tuple[PlannedBlock, ...] = ()
    depth: PlannedDepth | None = None
    interface: tuple[PlannedFace, ...] = ()
    frozen: tuple[FrozenView, ...] = ()
    opaque: tuple[FrozenView, ...] = ()
    figures: dict[str, Change] = dataclasses.field(default_factory=dict)
    proof: dict[str, float] | None = None
    int8: PlannedInt8 | None = None
    format: int = FORMAT

    @property
    def unlocked(self) -> tuple[Unlock, ...]:
        """What of the interface has to be unlocked for this plan to apply."""
        return tuple(
            Unlock(f.kind, f"{f.tensor}@{f.axis}", tuple(i for r in f.kept for i in range(*r)))
            for f in self.interface
        )


_PLAN = TypeAdapter(Plan)


def check_ranges(axis: int, size: int, ranges: Ranges) -> None:
    """Refuse what is not one position or more of an axis.

    Raises:
        ValueError: if it is not.
    """
    edges = [edge for pair in ranges for edge in pair]
    rising = all(a < b for a, b in pairwise(edges))
    if not (rising and min(edges, default=-1) >= 0 and edges[-1] <= size):
        raise ValueError(f"axis {axis} of length {size} cannot keep these ranges")


def to_ranges(positions: Ints) -> Ranges:
    """Return ascending positions as ranges.

    >>> to_ranges(np.array([0, 1, 2, 5]))
    ((0, 3), (5, 6))
    """
    if not len(positions):
        return ()
    cuts = np.flatnonzero(np.diff(positions) != 1) + 1
    starts, ends = positions[np.append(0, cuts)], positions[np.append(cuts - 1, len(positions) - 1)]
    return tuple(zip(starts.tolist(), (ends + 1).tolist(), strict=True))


def write_plan(plan: Plan, path: Path | str) -> None:
    """Write a plan, whole or not at all.

    Raises:
        OnnxPruneError: if it cannot be written.
    """
    write_document(plan, path)


def read_plan(path: Path | str) -> Plan:
    """Read a plan.

    Raises:
        OnnxPruneError: in one line, if it is missing, no plan, or of another format.
    """
    return read_document(path, _PLAN, "plan", FORMAT)
