"""Retraining: it learns from the teacher, and a run that was cut off ends as one that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import ModelProto, numpy_helper, parser

from onnxprune import cli
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.runtime import Session
from onnxprune.torch import Recipe, retrain

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
RECIPE = Recipe(epochs=3, batch=16, rate=0.05, temperature=2.0)


def _model(hidden: int, seed: int) -> ModelProto:
    model = parser.parse_model(TEXT)
    rng = np.random.default_rng(seed)
    shapes = {"first": (6, hidden), "bias": (hidden,), "last": (hidden, 4)}
    values = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    for name, value in {**values, "ratio": np.array(0.1)}.items():
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A teacher, a student of half the width, samples with labels."""
    onnx.save(_model(32, 0), tmp_path / "teacher.onnx")
    onnx.save(_model(16, 1), tmp_path / "student.onnx")
    x = np.random.default_rng(2).standard_normal((100, 6)).astype(np.float32)
    labels = _run(tmp_path / "teacher.onnx", x).argmax(1)
    np.savez(tmp_path / "data.npz", x=x, y=labels)
    return tmp_path


def _run(path: Path, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = Session(path).run({"x": x})["y"]
    return found


def _train(folder: Path, name: str, **options: Any) -> Path:
    retrain(
        folder / "student.onnx", folder / "teacher.onnx", str(folder / "data.npz"), folder / name,
        **{"recipe": RECIPE, **options},
    )  # fmt: skip
    return folder / name


@pytest.mark.parametrize("labels", [None, "y"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_learns_what_the_teacher_says(folder: Path, labels: str | None, optimizer: str) -> None:
    x = np.load(folder / "data.npz")["x"]
    truth = _run(folder / "teacher.onnx", x).argmax(1)
    recipe = Recipe(epochs=15, batch=16, rate=0.05, temperature=2.0, optimizer=optimizer)  # type: ignore[arg-type]

    trained = _train(folder, "trained.onnx", labels=labels, recipe=recipe)

    before = (_run(folder / "student.onnx", x).argmax(1) == truth).mean()
    after = (_run(trained, x).argmax(1) == truth).mean()
    assert before < 0.5
    assert after > 0.8


def test_a_run_that_was_cut_off_ends_the_same(folder: Path) -> None:
    whole = _train(folder, "whole.onnx")

    def cut(what: str, done: int, total: int) -> None:
        assert (what, total) == ("retraining", 18)
        if done in stops:
            stops.remove(done)
            raise KeyboardInterrupt

    stops = [4, 5, 13]
    options: dict[str, Any] = {"work": folder / "work", "every": 0.0}
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            _train(folder, "resumed.onnx", progress=cut, **options)
        assert not (folder / "resumed.onnx").exists()
    resumed = _train(folder, "resumed.onnx", progress=cut, **options)

    assert resumed.read_bytes() == whole.read_bytes()
    assert [p.name for p in (folder / "work").iterdir()] == ["checkpoint.safetensors"]


def test_same_seed_same_weights_other_seed_others(folder: Path) -> None:
    first = _train(folder, "a.onnx").read_bytes()

    assert _train(folder, "b.onnx").read_bytes() == first
    other = Recipe(**{**RECIPE.__dict__, "seed": 1})
    assert _train(folder, "c.onnx", recipe=other).read_bytes() != first


def test_refuses_in_one_line(folder: Path) -> None:
    _train(folder, "a.onnx", work=folder / "work")
    other = Recipe(**{**RECIPE.__dict__, "rate": 0.01})
    for message, options in (
        (
            "checkpoint .* is of another run, its recipe differs",
            {"work": folder / "work", "recipe": other},
        ),
        ("--labels 'z': the data has no such key; besides inputs: 'y'", {"labels": "z"}),
        (
            r"the loss is (nan|inf) at step \d+: lower --rate",
            {"recipe": Recipe(rate=1e30, clip=1e30)},
        ),
    ):
        with pytest.raises(OnnxPruneError, match=message) as refused:
            _train(folder, "b.onnx", **options)
        assert "\n" not in str(refused.value)
        assert not (folder / "b.onnx").exists()
    (folder / "work" / "checkpoint.safetensors").write_bytes(b"half")
    with pytest.raises(OnnxPruneError, match="is no checkpoint"):
        _train(folder, "b.onnx", work=folder / "work")
    with pytest.raises(OnnxPruneError, match="--epochs is 0: it must be above zero"):
        Recipe(epochs=0)


def test_from_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(folder / name) for name in ("student.onnx", "teacher.onnx", "data.npz", "a.onnx")]
    command = ["retrain", names[0], "--teacher", names[1], "--data", names[2], "-o", names[3]]

    assert cli.main([*command, "--epochs", "2", "--batch", "16", "--labels", "y"]) == 0
    assert "12 steps in" in capsys.readouterr().out
    assert cli.main([*command, "--optimizer", "lbfgs"]) == 2
    assert "--optimizer is 'lbfgs': expected sgd or adamw" in capsys.readouterr().err
