"""Files, good and bad: what their tests are given."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.files.common import CHAIN, clone


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good model in a folder of its own."""
    folder = tmp_path / "model"
    folder.mkdir()
    onnx.save(CHAIN, folder / "chain.onnx")
    return folder / "chain.onnx"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """The same model with its weights in a file beside it: 'chain.bin'."""
    folder = tmp_path / "outside"
    folder.mkdir()
    onnx.save(
        clone(CHAIN), folder / "chain.onnx", save_as_external_data=True, location="chain.bin",
        size_threshold=0,
    )  # fmt: skip
    return folder / "chain.onnx"
