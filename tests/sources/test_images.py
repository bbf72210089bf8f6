"""Images become what the model takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxprune.pipeline.samples import open_samples
from tests.sources.common import graph


def test_images_are_preprocessed_as_the_model_takes_them(pictures: Path) -> None:
    samples = open_samples(str(pictures), graph("float[N,3,40,40] x"))
    batch = samples.read(0, 3)
    pixels = np.asarray(Image.open(pictures / "cat/1.png"))[:, 10:50]  # the centre
    expected = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]

    np.testing.assert_allclose(batch["x"][0], expected.transpose(2, 0, 1), atol=1e-5)
    assert batch["labels"].tolist() == [0, 0, 1]
    assert "guessed" in samples.notes[0]


@pytest.mark.parametrize(
    ("given", "signature", "shape"),
    [
        ({"layout": "NHWC"}, "float[N,20,30,3] x", (20, 30, 3)),
        ({"channels": "BGR", "resize": "stretch"}, "float[N,3,20,30] x", (3, 20, 30)),
        ({"resize": "pad", "interpolation": "bicubic"}, "float[N,3,32,32] x", (3, 32, 32)),
        ({"size": 24, "crop": 0.875}, "float[N,3,H,W] x", (3, 24, 24)),
        ({"size": [24, 16], "mean": 0.5, "std": [0.1, 0.2, 0.3]}, "float[N,3,H,W] x", (3, 24, 16)),
        ({}, "float[N,1,28,28] x", (1, 28, 28)),
        ({}, "uint8[N,20,20,3] x", (20, 20, 3)),
    ],
)
def test_preprocessing_choices(
    given: dict[str, Any], signature: str, shape: tuple[int, ...], pictures: Path
) -> None:
    samples = open_samples(pictures, graph(signature), preprocess=given)

    assert samples.read(0, 2)["x"].shape == (2, *shape)


def test_values_of_preprocessing(tmp_path: Path) -> None:
    """One pixel of each kind: order of channels, scale, mean, std, black bars."""
    Image.fromarray(np.full((8, 16, 3), (10, 20, 30), np.uint8)).save(tmp_path / "a.png")
    given = {"resize": "pad", "scale": 0.1, "mean": [1, 2, 3], "std": 2, "channels": "BGR"}
    (x,) = open_samples(tmp_path, graph("float[N,3,16,16] x"), preprocess=given).read(0, 1)["x"]

    np.testing.assert_allclose(x[:, 8, 8], [(3 - 1) / 2, (2 - 2) / 2, (1 - 3) / 2], atol=1e-6)
    np.testing.assert_allclose(x[:, 0, 0], [-0.5, -1, -1.5], atol=1e-6)


@pytest.mark.parametrize("way", ["beside json", "beside toml", "file", "text"])
def test_specification_in_a_file_or_as_text(way: str, pictures: Path, tmp_path: Path) -> None:
    spec = {"mean": 0.0, "std": 1.0, "scale": 1.0, "resize": "stretch"}
    given: str | None = None
    if way == "beside json":
        (pictures / "preprocess.json").write_text(json.dumps(spec))
    elif way == "beside toml":
        lines = [f"{name} = {json.dumps(value)}" for name, value in spec.items()]
        (pictures / "preprocess.toml").write_text("\n".join(lines))
    elif way == "file":
        given = str(tmp_path / "spec.json")
        Path(given).write_text(json.dumps(spec))
    else:
        given = json.dumps(spec)
    samples = open_samples(str(pictures), graph("float[N,3,40,60] x"), preprocess=given)
    pixels = np.asarray(Image.open(pictures / "cat/1.png"), np.float32)

    np.testing.assert_allclose(samples.read(0, 1)["x"][0], pixels.transpose(2, 0, 1))
    assert "guessed" not in samples.notes[0]
