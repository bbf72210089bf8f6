"""What retraining cannot do is said in one line; what goes wrong on the way leaves the last good."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from onnxprune.core.errors import OnnxPruneError
from onnxprune.torch import Recipe
from onnxprune.torch.loss import Loss

from .retraining import RECIPE, TEXT, prepare, run, train


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return prepare(tmp_path, ratio=0.0)


def refused(folder: Path, message: str, **options: Any) -> None:
    with pytest.raises(OnnxPruneError, match=message) as error:
        train(folder, "refused.onnx", **options)
    assert "\n" not in str(error.value)
    assert not (folder / "refused.onnx").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "--epochs is 0: it must be above zero"),
        ({"rate": 0.0}, "--rate is 0.0: it must be above zero"),
        ({"decay": -1.0}, "--decay is -1.0: it must not be negative"),
        ({"features": -1.0}, "--features is -1.0: it must not be negative"),
        ({"holdout": 2.0}, "--holdout is 2.0: expected 0 to 1"),
        ({"label_weight": 1.5}, "--label-weight is 1.5: expected 0 to 1"),
        ({"precision": "float8"}, "--precision is 'float8': expected float32 or bfloat16"),
        ({"taught_by": "tf"}, "--taught-by is 'tf': expected onnxruntime or pytorch"),
        ({"patience": 2, "holdout": 0.0}, "--patience needs samples to judge by: give --holdout"),
        ({"loss": "a:b", "augment": ("mixup",)}, "--augment mixup mixes labels"),
        ({"augment": ("blur",)}, "--augment 'blur' is unknown"),
    ],
    ids=str,
)
def test_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(OnnxPruneError, match=message) as error:
        Recipe(**settings)
    assert "\n" not in str(error.value)


def test_what_does_not_go_together(folder: Path) -> None:
    refused(folder, "--labels 'z': the data has no such key; besides inputs: 'y'", labels="z")
    refused(folder, "--features needs the plan of the prune, and there is no '.*student.plan.json'",
            recipe=Recipe(features=1.0))  # fmt: skip
    refused(folder, "there is no plan 'none.json': give the file that", plan="none.json")
    refused(folder, "--augment flip is for images", recipe=Recipe(augment=("flip",)))
    refused(folder, "--holdout 0.001 of 100 samples leaves 0 to judge by",
            recipe=Recipe(holdout=0.001))  # fmt: skip
    refused(folder, "--device is 'tpu': expected auto, cpu or cuda", device="tpu")
    if not torch.cuda.is_available():
        refused(folder, "--device cuda: PyTorch finds no CUDA device", device="cuda")
    train(folder, "a.onnx", work=folder / "work")
    refused(folder, "checkpoint .* is of another run, its recipe differs",
            work=folder / "work", recipe=dataclasses.replace(RECIPE, rate=0.01))  # fmt: skip
    (folder / "work" / "checkpoint.safetensors").write_bytes(b"half")
    refused(folder, "is no checkpoint", work=folder / "work")


def test_data_without_labels(folder: Path) -> None:
    with np.load(folder / "data.npz") as data:
        x = data["x"]
    np.savez(folder / "data.npz", x=x)

    refused(folder, "--labels 'y': the data has no such key; besides inputs: nothing", labels="y")


def test_labels_beyond_the_classes(folder: Path) -> None:
    with np.load(folder / "data.npz") as data:
        x, y = data["x"], data["y"]
    np.savez(folder / "data.npz", x=x, y=y + 7)

    refused(folder, r"there is a label \d+: output 'y' has 4 classes", labels="y")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"x": "images"},
            r"the teacher has other inputs: the model has \['x'\], the teacher \['imag",
        ),
        (
            {"y": "scores"},
            r"the teacher has other outputs: the model has \['y'\], the teacher \['sco",
        ),
    ],
    ids=str,
)
def test_a_teacher_with_other_names(folder: Path, changes: dict[str, str], message: str) -> None:
    teacher = onnx.load(folder / "teacher.onnx")
    for value in (*teacher.graph.input, *teacher.graph.output):
        value.name = changes.get(value.name, value.name)
    for node in teacher.graph.node:
        node.input[:] = [changes.get(name, name) for name in node.input]
        node.output[:] = [changes.get(name, name) for name in node.output]
    onnx.save(teacher, folder / "teacher.onnx")

    refused(folder, message)


def test_a_teacher_with_other_classes(folder: Path) -> None:
    text = TEXT.replace("float[N, 4]", "float[N, 5]")
    teacher = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    shapes = {"first": (6, 8), "bias": (8,), "last": (8, 5), "ratio": ()}
    for name, shape in shapes.items():
        value = rng.uniform(0, 0.5, shape).astype(np.float32)
        teacher.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    onnx.save(teacher, folder / "teacher.onnx")

    refused(folder, r"'y' has shape \[16, 4\] in the model and \[16, 5\] in the teacher")


def test_a_loss_that_is_no_number(folder: Path) -> None:
    recipe = Recipe(epochs=4, batch=100, rate=1e30, clip=1e30, warmup=0.0)
    refused(folder, r"the (loss|gradient) is (nan|inf) at step \d+: lower --rate", recipe=recipe)


def test_a_loss_that_becomes_nan_keeps_what_was_learned(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Loss.__call__, []

    def fails(self: Loss, *args: Any) -> torch.Tensor:
        calls.append(1)
        return real(self, *args) * (float("nan") if len(calls) == 15 else 1.0)

    good = dataclasses.replace(RECIPE, epochs=6, batch=20, warmup=0.0)
    monkeypatch.setattr(Loss, "__call__", fails)
    refused(folder, "the loss is nan at step 15: .*the weights after 10 steps, the last good ones, "
            "are in '.*refused.last-good.onnx'", recipe=good)  # fmt: skip

    x = np.load(folder / "data.npz")["x"]
    expected = run(folder / "teacher.onnx", x)
    gaps = [np.square(run(folder / name, x) - expected).mean()
            for name in ("student.onnx", "refused.last-good.onnx")]  # fmt: skip
    assert gaps[1] < gaps[0]


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory: 8 bytes")],
    ids=["cuda", "host"],
)
def test_out_of_memory_halves_the_batch(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: RuntimeError,
) -> None:
    """Parts of 4 fit: gradients of 16 samples are added up from them, and the result is the same."""
    recipe = dataclasses.replace(RECIPE, temperature=1.0)
    train(folder, "whole.onnx", recipe=recipe, labels="y")
    real = Loss.__call__

    def small(self: Loss, found: Any, theirs: Any, batch: Any, share: float) -> torch.Tensor:
        if len(batch["x"]) > 4:
            raise error
        return real(self, found, theirs, batch, share)

    monkeypatch.setattr(Loss, "__call__", small)
    with caplog.at_level(logging.WARNING):
        done = train(folder, "parts.onnx", recipe=recipe, labels="y")

    assert done.parts == 4
    said = "out of memory with 16 samples at once: from step 1 on, batches of 16 are computed in 2 parts"
    assert said in caplog.text
    x = np.load(folder / "data.npz")["x"]
    np.testing.assert_allclose(
        run(folder / "parts.onnx", x), run(folder / "whole.onnx", x), rtol=1e-4, atol=1e-5
    )


def test_memory_for_not_even_one_sample(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_self: Loss, *_args: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Loss, "__call__", never)
    refused(folder, "out of memory with 1 samples at once: lower --batch")
