"""Two processes, started as a launcher starts them, end where one does at the same batch."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import socket
from pathlib import Path

import numpy as np
import pytest

from onnxprune.core.errors import OnnxPruneError
from onnxprune.torch.processes import Processes

from .retraining import RECIPE, prepare, run, train

RECIPE_OF_ALL = dataclasses.replace(RECIPE, epochs=4, average=0.5, holdout=0.2)


def one_of_two(folder: Path, rank: int, port: int) -> None:
    """Train as process `rank` of two: with the environment that torchrun and accelerate give."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    train(folder, "two.onnx", labels="y", recipe=RECIPE_OF_ALL, device="cpu", work=folder / "work")


def test_two_processes_are_one(tmp_path: Path) -> None:
    """Sums over two halves of a batch are rounded otherwise: hence the tolerance."""
    pytest.importorskip("accelerate", reason="needs onnxprune[distributed]")
    folder = prepare(tmp_path, ratio=0.0)
    train(folder, "one.onnx", labels="y", recipe=RECIPE_OF_ALL)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.torch.retraining"])
    children = [context.Process(target=one_of_two, args=(folder, i, port)) for i in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()

    assert [child.exitcode for child in children] == [0, 0]
    x = np.load(folder / "data.npz")["x"]
    one, two, before = (run(folder / f"{n}.onnx", x) for n in ("one", "two", "student"))
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-4)
    assert np.abs(one - before).max() > 0.1


def test_accelerate_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)

    with pytest.raises(OnnxPruneError, match=r'pip install "onnxprune\[distributed\]"'):
        Processes("cpu")
