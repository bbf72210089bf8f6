"""Columns: arrays whose first axis is samples, read a few rows at a time from wherever they lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxprune.core.graph import Array

Ints = NDArray[np.int64]


class Column(Protocol):
    """One named array of the data; a column of rank 0 is the same value for every sample."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, samples first; known without reading values."""
        ...

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Element type; known without reading values."""
        ...

    def rows(self, index: Ints) -> Array:
        """Read the samples of these numbers: shape (len(index), ...)."""
        ...


@dataclasses.dataclass(frozen=True)
class Held:
    """An array in memory, or mapped from a file."""

    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Element type of the array."""
        return self.array.dtype

    def rows(self, index: Ints) -> Array:
        """Copy rows out; rank 0 is given as it is."""
        return np.asarray(self.array[index] if self.array.ndim else self.array)


@dataclasses.dataclass(frozen=True)
class Joined:
    """Columns one after the other; they agree in all axes but the first, and in element type."""

    parts: Sequence[Column]

    @cached_property
    def starts(self) -> Ints:
        """Number of the first sample of each part, and the total: int64, shape (parts + 1,)."""
        return np.cumsum([0, *(part.shape[0] for part in self.parts)])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole."""
        return (int(self.starts[-1]), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The common element type."""
        return self.parts[0].dtype

    def rows(self, index: Ints) -> Array:
        """Read each part's share, and put it in the order asked for."""
        result = np.empty((len(index), *self.shape[1:]), self.dtype)
        owner = np.searchsorted(self.starts, index, side="right") - 1
        for number in np.unique(owner):
            here = owner == number
            result[here] = self.parts[number].rows(index[here] - self.starts[number])
        return result
