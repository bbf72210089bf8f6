"""Files, good and bad: what their tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from onnxprune.core.errors import ModelError
from onnxprune.core.runtime import Session
from onnxprune.files.store import load
from tests.networks import NETWORKS

CHAIN = NETWORKS["chain"].model()


X = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)


def clone(model: ModelProto) -> ModelProto:
    twin = ModelProto()
    twin.CopyFrom(model)
    return twin


def outputs(path: Path) -> dict[str, np.ndarray]:
    return Session(path, optimise=False).run({"x": X})


def refused(path: Path, *expected: str) -> str:
    """Assert that a file is refused in one line that holds all of `expected`."""
    with pytest.raises(ModelError) as caught:
        load(path)
    text = str(caught.value)
    assert "\n" not in text
    for part in (str(path), *expected):
        assert part in text
    return text
