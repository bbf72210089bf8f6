"""What the teacher says, kept for batches that come again: the teacher is asked once for each."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..core.graph import Array
from .batches import Batch

# answers, on the student's device, to the arrays of a batch, both by name
Teacher = Callable[[dict[str, Array]], dict[str, Tensor]]
_ROOM = 1 << 30  # bytes; logits of 50,000 images and ten classes take 2 MB


class Answers:
    """A teacher that remembers. What finds no room is asked again: the answers are the same."""

    def __init__(self, teacher: Teacher, inputs: list[str], room: int = _ROOM) -> None:
        """Begin with nothing kept.

        Args:
            teacher: computes outputs from inputs.
            inputs: names of what it is given of a batch.
            room: bytes that answers may take.
        """
        self._teacher, self._inputs, self._room = teacher, inputs, room
        self._kept: dict[tuple[int, ...], dict[str, Tensor]] = {}

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Return what the teacher says of a batch; nobody may write into it."""
        if batch.again in self._kept:
            return self._kept[batch.again]
        found = self._teacher({name: batch.arrays[name] for name in self._inputs})
        size = sum(value.nbytes for value in found.values())
        if batch.again and size <= self._room:
            self._kept[batch.again] = found
            self._room -= size
        return found
