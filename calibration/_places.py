"""Tensor axes of which values of single samples can be kept."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import TensorProto

from onnxprune.core.analysis import Analysis
from onnxprune.core.contracts import Calibration

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}

Place = tuple[str, int]  # tensor, axis of its channels


def by_sample(analysis: Analysis, settings: Calibration, places: Iterable[Place]) -> list[Place]:
    """Return those of known shape that hold floats, are no weights and have samples first; each once."""
    return [
        (name, axis)
        for name, axis in dict.fromkeys(places)
        if name in settings.shapes
        and analysis.shapes.dtypes.get(name) in FLOATS
        and name not in analysis.graph.weights
        and axis > 0
    ]
