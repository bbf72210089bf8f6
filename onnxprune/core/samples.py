"""Samples of a model's inputs, and how long work on them tells of its progress."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from .graph import Array

Batch = Mapping[str, Array]  # input name -> array, first axis = samples
Progress = Callable[[str, int, int], None]  # (what, done, total); total 0 when unknown


def silent(what: str, done: int, total: int) -> None:
    """Report no progress."""


@dataclasses.dataclass(frozen=True)
class Samples:
    """Samples that can be read any number of times, in slices, without holding them all.

    Attributes:
        count: number of samples.
        read: (start, stop) -> batch with the samples of that range.
        extra: keys that are no model input (labels), read the same way.
        random: True for random data.
        digest: hash of names, shapes and a spread of values, for the plan file.
        batch: how many samples the model takes in one run; None if any number. `count` is a
            multiple of it.
        notes: what the user should know about the data (dropped tail, values converted).
    """

    count: int
    read: Callable[[int, int], dict[str, Array]]
    extra: tuple[str, ...] = ()
    random: bool = False
    digest: str = ""
    batch: int | None = None
    notes: tuple[str, ...] = ()

    def batches(
        self, size: int, start: int = 0, stop: int | None = None
    ) -> Iterator[dict[str, Array]]:
        """Yield consecutive batches of at most `size` samples, or of exactly `batch` where fixed."""
        end = self.count if stop is None else min(stop, self.count)
        step = self.batch or size
        for first in range(start, end, step):
            yield self.read(first, min(first + step, end))

    def part(self, start: int, stop: int) -> Samples:
        """Return a sub-range as samples of its own (disjoint splits), rounded to whole batches."""
        read, step = self.read, self.batch or 1
        first, last = (min(n, self.count) // step * step for n in (start, stop))
        return dataclasses.replace(
            self, count=last - first, read=lambda a, b: read(first + a, first + b)
        )


def concatenate(batches: Iterable[Batch]) -> dict[str, Array]:
    """Join batches along the first axis."""
    rows = list(batches)
    return {name: np.concatenate([b[name] for b in rows]) for name in rows[0]} if rows else {}
