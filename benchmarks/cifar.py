"""CIFAR-10 and the published ResNets for it, from a folder of data that is not part of the project.

The folder is `$ONNXPRUNE_DATA`, or `../shared/data` beside the project:

    cifar10/train_1.npz .. train_5.npz, test.npz    10,000 images each: `labels`, and `webp`, lossless
                                                    strips of 100 images, cut at `offsets`
    weights/resnet20-*.th, resnet56-*.th            of `akamaster/pytorch_resnet_cifar10`
    onnx/cifar10_conv8.onnx                         `cifar_biasfield` of VNN-COMP 2022
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from onnxprune.core.contracts import Samples
from onnxprune.models.export import Exporter, export
from onnxprune.models.resnet import CifarResNet, load

ROOT = Path(__file__).resolve().parent.parent
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # those the networks were trained with
CONV8 = MEAN, (0.225, 0.225, 0.225)  # those of `cifar10_conv8.onnx`
STRIP = 100  # images per stream


class NoDataError(Exception):
    """The data is not there; the message says where it was looked for."""


@dataclasses.dataclass(frozen=True)
class Images:
    """Images as the networks read them.

    Attributes:
        x: float32, shape (N, 3, 32, 32), normalised by mean and standard deviation.
        y: int64, shape (N,), the class.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]

    def samples(self, name: str) -> Samples:
        """Return them without labels, as samples of input `name`."""
        return Samples(len(self.x), lambda start, stop: {name: self.x[start:stop]})

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> Images:
        """Return them normalised by another mean and standard deviation."""
        scale = (np.array(STD) / std)[:, None, None]
        shift = ((np.array(MEAN) - mean) / std)[:, None, None]
        return Images((self.x * scale + shift).astype(np.float32), self.y)


def folder() -> Path:
    """Return the folder of data.

    Raises:
        NoDataError: if there is none.
    """
    path = Path(os.environ.get("ONNXPRUNE_DATA", ROOT / ".." / "shared" / "data")).resolve()
    if not path.is_dir():
        raise NoDataError(f"no data at '{path}': set ONNXPRUNE_DATA (see benchmarks/cifar.py)")
    return path


def images(part: str, count: int) -> Images:
    """Read the first `count` images of a part: "train_1" .. "train_5" or "test".

    The order is shuffled, with ten images of every class in each strip.

    Raises:
        NoDataError: if the file is not there.
    """
    path = folder() / "cifar10" / f"{part}.npz"
    if not path.is_file():
        raise NoDataError(f"no images at '{path}' (see benchmarks/cifar.py)")
    with np.load(path) as file:
        stream, offsets, labels = file["webp"], file["offsets"], file["labels"]
    strips = range(min(-(-count // STRIP), len(offsets) - 1))
    pixels = np.concatenate([_strip(stream[offsets[i] : offsets[i + 1]]) for i in strips])[:count]
    x = (pixels / 255.0 - MEAN) / STD
    return Images(
        np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32), labels[:count].astype(np.int64)
    )


def _strip(stream: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Decode one strip: shape (100, 32, 32, 3)."""
    with Image.open(io.BytesIO(stream.tobytes())) as image:
        return np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3)


def module(depth: int) -> CifarResNet:
    """Return the published ResNet of a depth, in evaluation mode.

    Raises:
        NoDataError: if its weights are not there.
    """
    found = sorted((folder() / "weights").glob(f"resnet{depth}-*.th"))
    if not found:
        raise NoDataError(f"no weights of ResNet-{depth} in '{folder() / 'weights'}'")
    return load(found[0])


def network(depth: int, target: Path, exporter: Exporter = "torchscript") -> Path:
    """Write the published ResNet of a depth as ONNX, BatchNormalization folded.

    Raises:
        NoDataError: if its weights are not there.
    """
    path = target / f"resnet{depth}.onnx"
    return export(module(depth), [torch.zeros(2, 3, 32, 32)], path, exporter=exporter)


def conv8() -> Path:
    """Return the path of the network of eight convolutions, whose batch size is 1.

    Raises:
        NoDataError: if it is not there.
    """
    path = folder() / "onnx" / "cifar10_conv8.onnx"
    if not path.is_file():
        raise NoDataError(f"no network at '{path}' (see benchmarks/cifar.py)")
    return path
