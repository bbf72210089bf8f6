"""What the tests of retraining share: a teacher, a student of half its width, samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, numpy_helper, parser

from onnxprune.core.runtime import Session
from onnxprune.torch import Recipe, Retrained, retrain

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
agraph (float[N, 6] x) => (float[N, 4] y)
{
    t = Gemm (x, first, bias)
    u = Relu (t)
    v = Dropout (u, ratio)
    y = Gemm (v, last)
}
"""
RECIPE = Recipe(epochs=3, batch=16, optimizer="sgd", rate=0.05, temperature=2.0, holdout=0.0)
Floats = npt.NDArray[np.float32]


def model(hidden: int, seed: int, *, ratio: float = 0.1) -> ModelProto:
    """A network of random weights."""
    made = parser.parse_model(TEXT)
    rng = np.random.default_rng(seed)
    shapes = {"first": (6, hidden), "bias": (hidden,), "last": (hidden, 4)}
    values = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    for name, value in {**values, "ratio": np.array(ratio)}.items():
        made.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    return made


def prepare(folder: Path, *, ratio: float = 0.1) -> Path:
    """Write `teacher.onnx`, `student.onnx` and `data.npz`, with labels `y`."""
    onnx.save(model(32, 0), folder / "teacher.onnx")
    onnx.save(model(16, 1, ratio=ratio), folder / "student.onnx")
    x = np.random.default_rng(2).standard_normal((100, 6)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=run(folder / "teacher.onnx", x).argmax(1))
    return folder


def run(path: Path, x: Floats) -> Floats:
    """Return what a file says."""
    found: Floats = Session(path).run({"x": x})["y"]
    return found


def train(folder: Path, name: str, **options: Any) -> Retrained:
    """Train the student; writes `name`."""
    return retrain(
        folder / "student.onnx", folder / "teacher.onnx", str(folder / "data.npz"), folder / name,
        **{"recipe": RECIPE, **options},
    )  # fmt: skip
