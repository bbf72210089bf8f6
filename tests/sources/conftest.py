"""Sample data: what their tests are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxprune.core.graph import Array


@pytest.fixture
def images(rng: np.random.Generator) -> Array:
    return rng.standard_normal((10, 3, 4, 5)).astype(np.float32)


@pytest.fixture
def pictures(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = tmp_path / "pictures"
    for name in ("cat/1.png", "cat/2.jpg", "dog/3.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(path)
    return folder
