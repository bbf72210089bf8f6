"""Data for the published files: images with labels, photos, pictures, a sound."""

from __future__ import annotations

import dataclasses
import io
import wave
from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxprune.core.runtime import Session

Array = NDArray[Any]
Samples = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One file's use.

    Attributes:
        what: the figure, with its unit.
        samples: (data folder, original) -> calibration samples by input name.
        figure: (data folder, model, original) -> the figure, as it is printed.
        note: what a reader must know.
    """

    what: str
    samples: Callable[[Path, Session], Samples]
    figure: Callable[[Path, Session, Session], str]
    note: str = ""


def outputs(session: Session, batch: Samples) -> list[Array]:
    """Run once; return the outputs in order."""
    return list(session.run(batch).values())


@cache
def mnist(folder: Path, part: str) -> tuple[Array, Array]:
    """Return images (N, 28, 28) uint8 and labels."""
    with np.load(folder / "mnist.npz") as data:
        return data[f"x_{part}"], data[f"y_{part}"]


@cache
def cifar(folder: Path, part: str) -> tuple[Array, Array]:
    """Return images (10000, 32, 32, 3) uint8 and labels."""
    with np.load(folder / "cifar10" / f"{part}.npz") as data:
        raw, ends = data["webp"], data["offsets"]
        strips = [
            np.asarray(Image.open(io.BytesIO(raw[a:b].tobytes())).convert("RGB"))
            for a, b in pairwise(ends)
        ]
        return np.concatenate([s.reshape(-1, 32, 32, 3) for s in strips]), data["labels"]


@cache
def photos(folder: Path) -> tuple[list[Image.Image], Array]:
    """Return the 200 photos and their classes, every second one first."""
    files = sorted((folder / "imagenet200").glob("*.jpg"))
    files = files[::2] + files[1::2]
    return [Image.open(f).convert("RGB") for f in files], np.array([int(f.name[:4]) for f in files])


def picture(folder: Path, name: str) -> Image.Image:
    """Return a sample picture."""
    return Image.open(folder / "sample_inputs" / name).convert("RGB")


def fitted(
    image: Image.Image,
    width: int,
    height: int,
    *,
    bgr: bool = False,
    mean: Any = 0.0,
    std: Any = 1.0,
) -> Array:
    """Return an image of that size as one sample (1, 3, height, width), (x - mean) / std."""
    array = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32)
    array = (array[..., ::-1] if bgr else array) - np.asarray(mean, np.float32)
    return np.ascontiguousarray((array / np.asarray(std, np.float32)).transpose(2, 0, 1)[None])


@cache
def sound(folder: Path) -> Array:
    """Return the noisy speech at 16 kHz, float32 in -1..1."""
    with wave.open(str(folder / "sample_inputs" / "noisy_speech_16k.wav")) as file:
        raw = file.readframes(file.getnframes())
    return np.frombuffer(raw, np.int16).astype(np.float32) / 32768
