"""A training that is killed and started again ends, on a CPU, in the weights of one that was not."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from .retraining import RECIPE, prepare, train

RECIPES = {
    "plain": RECIPE,
    "adamw, averaged, held out": dataclasses.replace(
        RECIPE, optimizer="adamw", rate=0.01, average=0.9, holdout=0.2, patience=2
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return prepare(tmp_path)


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_that_was_cut_off_ends_the_same(folder: Path, name: str) -> None:
    recipe = RECIPES[name]
    whole = train(folder, "whole.onnx", recipe=recipe)

    def cut(what: str, done: int, total: int) -> None:
        assert what.startswith("retraining, loss ")
        assert total >= whole.steps
        if done in stops:
            stops.remove(done)
            raise KeyboardInterrupt

    stops = [4, 5, 13]
    options: dict[str, Any] = {"work": folder / "work", "every": 0.0, "recipe": recipe}
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            train(folder, "resumed.onnx", progress=cut, **options)
        assert not (folder / "resumed.onnx").exists()
    resumed = train(folder, "resumed.onnx", progress=cut, **options)

    assert (folder / "resumed.onnx").read_bytes() == (folder / "whole.onnx").read_bytes()
    assert resumed.steps == whole.steps
    assert resumed.agreement == whole.agreement
    assert [p.name for p in (folder / "work").iterdir()] == ["checkpoint.safetensors"]


def test_killed_at_random_moments(folder: Path) -> None:
    """SIGKILL, which nothing can catch; the checkpoint is written after every step."""
    recipe = dataclasses.replace(RECIPE, epochs=20)
    train(folder, "whole.onnx", recipe=recipe)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.torch.retraining"])
    path, draw, kills = folder / "work" / "checkpoint.safetensors", random.Random(0), 0
    while True:
        options = {"recipe": recipe, "work": folder / "work", "every": 0.0}
        child = context.Process(target=train, args=(folder, "killed.onnx"), kwargs=options)
        before = path.stat().st_mtime_ns if path.exists() else 0
        child.start()
        while child.is_alive() and (not path.exists() or path.stat().st_mtime_ns == before):
            time.sleep(0.001)
        if kills == 3:
            child.join()
            break
        time.sleep(draw.uniform(0, 0.05))
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL, "the training ended before it was killed"
        kills += 1
        with safe_open(path, "np") as file:  # never half of one
            assert 0 < int(file.metadata()["step"]) < 120
        assert not (folder / "killed.onnx").exists()

    assert child.exitcode == 0
    assert (folder / "killed.onnx").read_bytes() == (folder / "whole.onnx").read_bytes()
    assert [p.name for p in (folder / "work").iterdir()] == ["checkpoint.safetensors"]
