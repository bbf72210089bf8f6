"""How callers of a pruned model must feed it and read it: what was index i is index j now.

Written into the file as metadata `onnxprune.interface`, a JSON list. An entry says what shrank (an
axis of an input or output; for a vocabulary the values of integer inputs), how long it was, and
`kept`: new index j was old index kept[j].
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from .analysis import Mask
from .errors import DataError, ModelError
from .faces import FaceKind
from .graph import Array, Graph

Ints = NDArray[np.int64]
KEY = "onnxprune.interface"
_CLASSES = 1  # the axis of class scores: (samples, classes)


@dataclasses.dataclass(frozen=True)
class Shrunk:
    """A part of the interface that lost positions.

    Attributes:
        kind: "input", "output", or "vocabulary": values of inputs are positions of a table.
        tensor: the input, the output, or the table, as the file calls it.
        axis: which axis of it.
        size: its length before.
        kept: what had these old positions has the positions 0, 1, ... now.
        ids: the inputs whose values are positions on a vocabulary.
    """

    kind: FaceKind
    tensor: str
    axis: int
    size: int
    kept: tuple[int, ...]
    ids: tuple[str, ...] = ()

    @cached_property
    def new(self) -> Ints:
        """New position per old one, -1 for what went: int64, shape (size,)."""
        table = np.full(self.size, -1, np.int64)
        table[np.array(self.kept, np.int64)] = np.arange(len(self.kept))
        return table

    def renumbered(self, name: str, values: Array) -> Array:
        """Return ids as the pruned model counts them.

        Raises:
            DataError: naming the first that is not kept, or no id at all.
        """
        old = np.asarray(values).astype(np.int64)
        if ((old < 0) | (old >= self.size)).any():
            wrong = old[(old < 0) | (old >= self.size)].flat[0]
            raise DataError(
                f"input '{name}' holds {wrong}: expected 0 to {self.size - 1}, a row of '{self.tensor}'"
            )
        new = self.new[old]
        if (new < 0).any():
            raise DataError(
                f"input '{name}' holds id {old[new < 0].flat[0]}, which is not among those kept: "
                "keep it too, or leave out such samples"
            )
        return new.astype(np.asarray(values).dtype)

    def replaced(self, values: Array) -> Array:
        """Return old ids with those that went replaced by kept ones, for inputs that are drawn."""
        array = np.asarray(values)
        old = array.astype(np.int64) % self.size
        kept = np.array(self.kept, np.int64)
        return np.where(self.new[old] < 0, kept[old % len(kept)], old).astype(array.dtype)


@dataclasses.dataclass(frozen=True)
class Interface:
    """Every part of a model's interface that shrank; empty: callers see no difference."""

    parts: tuple[Shrunk, ...] = ()

    def __bool__(self) -> bool:
        """Tell whether callers see a difference."""
        return bool(self.parts)

    def feeds(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Return what the pruned model is fed where the original is fed `batch`.

        Raises:
            DataError: if an id went.
        """
        result = dict(batch)
        for part in self.parts:
            if part.kind == "input" and part.tensor in result:
                result[part.tensor] = _taken(result[part.tensor], part)
            for name in part.ids:
                if name in result:
                    result[name] = part.renumbered(name, result[name])
        return result

    def admissible(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Return a drawn batch with kept ids only."""
        result = dict(batch)
        for part in self.parts:
            result.update({n: part.replaced(result[n]) for n in part.ids if n in result})
        return result

    def outputs(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Return the part of the original's outputs that the pruned model has too."""
        result = dict(found)
        for part in self.parts:
            if part.kind == "output" and part.tensor in result:
                result[part.tensor] = _taken(result[part.tensor], part)
        return result

    def classes(self, count: int) -> Ints:
        """Return the new number of each class of an output that has `count` now, -1 for those that went.

        Returns:
            int64, shape (classes before,).
        """
        for part in self.parts:
            if part.kind == "output" and part.axis == _CLASSES and len(part.kept) == count:
                return part.new
        return np.arange(count, dtype=np.int64)

    def after(self, earlier: Interface) -> Interface:
        """Return the way from the first model to the last, where this one starts from `earlier`."""
        before = {(p.kind, p.tensor, p.axis): p for p in earlier.parts}
        now = {(p.kind, p.tensor, p.axis): p for p in self.parts}
        both = [_chained(before.get(key), part) for key, part in now.items()]
        return Interface((*(p for key, p in before.items() if key not in now), *both))

    def to_json(self) -> str:
        """Return the text for the file's metadata."""
        return json.dumps([dataclasses.asdict(part) for part in self.parts])


def _taken(array: Array, part: Shrunk) -> Array:
    values = np.asarray(array)
    if values.ndim <= part.axis or values.shape[part.axis] != part.size:
        raise DataError(
            f"{part.kind} '{part.tensor}' has shape {list(values.shape)}: "
            f"axis {part.axis} should have the original's {part.size} positions"
        )
    return values.take(np.array(part.kept, np.int64), axis=part.axis)


def _chained(first: Shrunk | None, second: Shrunk) -> Shrunk:
    if first is None:
        return second
    kept = tuple(first.kept[position] for position in second.kept)
    return dataclasses.replace(second, size=first.size, kept=kept)


def interface_of(mask: Mask) -> Interface:
    """Return what a mask does to the unlocked parts of the interface."""
    origin, parts = mask.analysis.graph.origin, []
    for face in mask.analysis.faces:
        gone = mask.gone_at(face.tensor, face.axis)
        if gone is not None:
            name = origin.get(face.tensor, face.tensor)
            kept = tuple(np.flatnonzero(~gone).tolist())
            parts.append(Shrunk(face.kind, name, face.axis, len(gone), kept, face.ids))
    return Interface(tuple(parts))


_PARTS = TypeAdapter(tuple[Shrunk, ...])


def read_interface(graph: Graph) -> Interface:
    """Return what a file says of its own interface; empty if nothing of it ever shrank.

    Raises:
        ModelError: if that is no such note.
    """
    for entry in graph.shell.metadata_props:
        if entry.key == KEY:
            try:
                parts = _PARTS.validate_json(entry.value)
            except ValidationError as error:
                raise ModelError(f"metadata '{KEY}' is not what onnxprune writes there") from error
            if any(not p.kept or min(p.kept) < 0 or max(p.kept) >= p.size for p in parts):
                raise ModelError(f"metadata '{KEY}' lists positions that never were")
            return Interface(parts)
    return Interface()


def write_interface(graph: Graph, interface: Interface) -> None:
    """Note in a graph's metadata how its interface differs from that of the first original."""
    whole = interface.after(read_interface(graph))
    if not interface:
        return
    for entry in graph.shell.metadata_props:
        if entry.key == KEY:
            entry.value = whole.to_json()
            return
    graph.shell.metadata_props.add(key=KEY, value=whole.to_json())
