"""Rows of activations at points of a model: one per sample, or a few tokens of each.

What a sample holds at a point can be large (a map of 256 x 56 x 56): of so many values an even draw
is taken, the same in every sample, inside the graph, so that only these leave onnxruntime. Tokens
are drawn on the host, where padding is known: the same of all points of a stream.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from onnxprune.core.alignment import Point
from onnxprune.core.contracts import Calibration
from onnxprune.core.errors import DataError
from onnxprune.core.graph import Array
from onnxprune.core.patches import Keys
from onnxprune.core.stream import Probes

Ints = NDArray[np.int64]
FEATURES = 16_384  # values of a row: Gram matrices of 64 rows hardly change with more


@dataclasses.dataclass(frozen=True)
class Rows:
    """What one run gives for the points of a stream.

    Attributes:
        values: per point, shape (R, d); d may differ.
        samples: int64, shape (R,): which sample of the run each row is of, ascending.
    """

    values: list[Array]
    samples: Ints


class Reader:
    """Reads the rows of points from runs of a model.

    Attributes:
        probes: what it asks of each run.
        streams: per stream the numbers of its points.
    """

    def __init__(self, settings: Calibration, tokens: int, features: int = FEATURES) -> None:
        """Prepare to read.

        Args:
            settings: with the points, and the shapes of a run.
            tokens: rows per sample at most, where rows are tokens.
            features: values per row at most, where rows are samples.

        Raises:
            DataError: if the shape of a point is not known.
        """
        self.points, self.tokens = settings.points, tokens
        self.streams: dict[int, list[int]] = {}
        nodes: list[NodeProto] = []
        self.sources: list[str] = []
        for number, point in enumerate(self.points):
            self.streams.setdefault(point.stream, []).append(number)
            shape = settings.shapes.get(point.tensor)
            if shape is None or len(shape) < 2 or shape[0] % settings.count:
                raise DataError(
                    f"the activations '{point.tensor}' have shape {list(shape or ())}: the first of "
                    "two axes or more should be the samples to compare them with others"
                )
            width = int(np.prod(shape, dtype=np.int64)) // settings.count
            if point.tokens or width <= features:
                self.sources.append(point.tensor)
            else:
                self.sources.append(_thinned(point.tensor, width, features, nodes))
        masks = (point.mask for point in self.points if point.mask is not None)
        self.probes = Probes(tuple(dict.fromkeys([*self.sources, *masks])), tuple(nodes))

    def read(self, values: Mapping[str, Array], keys: Keys) -> dict[int, Rows]:
        """Return the rows of a run, by stream."""
        return {
            stream: self._read([self.points[n] for n in numbers], numbers, values, keys)
            for stream, numbers in self.streams.items()
        }

    def _read(
        self, points: list[Point], numbers: list[int], values: Mapping[str, Array], keys: Keys
    ) -> Rows:
        count = len(keys)
        arrays = [_floating(values[self.sources[n]]) for n in numbers]
        if not points[0].tokens:
            return Rows([array.reshape(count, -1) for array in arrays], np.arange(count))
        arrays = [array.reshape(count, -1, array.shape[-1]) for array in arrays]
        for n, array in zip(numbers, arrays, strict=True):
            self._check(points[0], self.points[n].tensor, array.shape[1], values)
        name, everything = points[0].mask, np.arange(arrays[0].shape[1])
        present = [everything] * count
        if name is not None:
            present = [np.flatnonzero(mask) for mask in values[name].reshape(count, -1)]
        chosen = [self._drawn(real, key) for real, key in zip(present, keys, strict=True)]
        samples = np.repeat(np.arange(count), [len(c) for c in chosen])
        tokens = np.concatenate(chosen)
        return Rows([array[samples, tokens] for array in arrays], samples)

    def _check(self, first: Point, name: str, tokens: int, values: Mapping[str, Array]) -> None:
        """Refuse tokens that are not those of the first point, or not what the mask speaks of."""
        for other in filter(None, (first.tensor, first.mask)):
            if (found := values[other].shape[1]) != tokens:
                raise DataError(
                    f"the activations '{name}' have {tokens} tokens, '{other}' has {found}: they "
                    "cannot be compared token by token"
                )

    def _drawn(self, present: Ints, key: np.uint64) -> Ints:
        """Draw tokens of one sample, ascending, by its key."""
        if len(present) <= self.tokens:
            return present
        drawn = np.random.default_rng(int(key)).choice(present, self.tokens, replace=False)
        return np.sort(drawn)


def _floating(array: Array) -> Array:
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _thinned(tensor: str, width: int, features: int, nodes: list[NodeProto]) -> str:
    """Append what takes `features` of the values of each sample, one in each of as many stretches."""
    edges = np.arange(features + 1) * width // features
    share = np.random.default_rng(width).random(features)  # of the same width, the same places
    places = edges[:-1] + (share * np.diff(edges)).astype(np.int64)
    flat, index, final = (f"{tensor}::row{part}" for part in ("::flat", "::places", ""))
    nodes += [
        helper.make_node("Flatten", [tensor], [flat], axis=1),
        helper.make_node("Constant", [], [index], value=numpy_helper.from_array(places)),
        helper.make_node("Gather", [flat, index], [final], axis=1),
    ]
    return final
