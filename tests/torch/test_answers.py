"""Batches that come again, and what the teacher said of them, which is kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from onnxprune.core.samples import Samples
from onnxprune.torch import Recipe
from onnxprune.torch import answers as module
from onnxprune.torch.answers import Answers
from onnxprune.torch.batches import Batch, Batches

from .retraining import RECIPE, prepare, train

IMAGES = np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype(np.float32)
Arrays = dict[str, npt.NDArray[Any]]
Tensors = dict[str, torch.Tensor]


def drawn(**settings: Any) -> Batches:
    """Five batches of eight images an epoch."""
    samples = Samples(40, lambda start, stop: {"x": IMAGES[start:stop]})
    return Batches(samples, Recipe(epochs=6, batch=8, holdout=0.0, **settings), ["x"], None)


def epochs(batches: Batches) -> list[list[bytes]]:
    """Return what is in each batch of each epoch."""
    found = [batches.train(step).arrays["x"].tobytes() for step in range(batches.steps)]
    return [found[i : i + batches.each] for i in range(0, len(found), batches.each)]


def test_epochs_come_again_in_another_order() -> None:
    first, second, *rest = epochs(drawn(repeat=2, augment=("crop", "flip", "mixup")))

    assert not set(first) & set(second)
    for epoch, like in zip(rest, [first, second, first, second], strict=True):
        assert sorted(epoch) == sorted(like)
        assert epoch != like
    assert [first, second] == epochs(drawn(augment=("crop", "flip", "mixup")))[:2]


def test_without_repeat_every_epoch_is_drawn() -> None:
    found = epochs(drawn())

    assert len({batch for epoch in found for batch in epoch}) == 30


class Counting:
    """A teacher that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, feeds: Arrays) -> Tensors:
        self.asked += 1
        assert list(feeds) == ["x"]
        return {"y": torch.from_numpy(feeds["x"].sum((1, 2, 3)))}


@pytest.mark.parametrize(("room", "asked"), [(1 << 20, 10), (4 * 8 * 3, 10 + 4 * 5 - 6), (0, 30)])
def test_a_teacher_is_asked_once_as_far_as_memory_goes(room: int, asked: int) -> None:
    """Room for three answers of eight floats, all drawn first: they come again in two epochs."""
    teacher, batches = Counting(), drawn(repeat=2, augment=("flip",))
    answers = Answers(teacher, ["x"], room)

    for step in range(batches.steps):
        batch = batches.train(step)
        np.testing.assert_array_equal(answers(batch)["y"], batch.arrays["x"].sum((1, 2, 3)))

    assert teacher.asked == asked


def test_parts_have_answers_of_their_own() -> None:
    teacher = Counting()
    answers = Answers(teacher, ["x"])
    batch = drawn(repeat=1).train(0)
    parts = [batch.part(slice(0, 4)), batch.part(slice(4, 8))]

    for _ in range(2):
        found = [answers(part)["y"] for part in (batch, *parts)]
    np.testing.assert_array_equal(found[0], np.concatenate(found[1:]))
    assert teacher.asked == 3


def test_what_never_comes_again_is_not_kept() -> None:
    teacher = Counting()
    answers = Answers(teacher, ["x"])
    for _ in range(2):
        answers(Batch({"x": IMAGES}))
    assert teacher.asked == 2


def test_weights_are_the_same_whether_answers_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: trained, cut off and resumed, and with no room for a single answer."""
    folder = prepare(tmp_path)
    recipe = dataclasses.replace(RECIPE, epochs=4, repeat=1, holdout=0.2)
    kept = train(folder, "kept.onnx", recipe=recipe)

    def cut(_what: str, done: int, _total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"work": folder / "work", "every": 0.0, "recipe": recipe}
    with pytest.raises(KeyboardInterrupt):
        train(folder, "resumed.onnx", progress=cut, **options)
    resumed = train(folder, "resumed.onnx", **options)
    monkeypatch.setattr(module.Answers.__init__, "__defaults__", (0,))
    train(folder, "asked.onnx", recipe=recipe)

    assert resumed.resumed == 8
    assert resumed.agreement == kept.agreement
    texts = {(folder / f"{name}.onnx").read_bytes() for name in ("kept", "resumed", "asked")}
    assert len(texts) == 1
