"""The small trained network of the demo: 8x8 handwritten digits, trained in half a minute.

`python -m onnxprune.models.digits` trains it and writes beside this file

* `digits.onnx`, the network, BatchNormalization kept, any batch length;
* `digits.npz`, all 1,797 digits in a fixed split, so that a demo needs no download: `images` (the
  calibration samples, under the name of the model's input), then `train_images`, `train_labels`,
  `validation_images`, ... and `test_labels`;
* `digits.json`, what was measured, when and with which versions.

The data is the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak,
1998, CC BY 4.0), as bundled with scikit-learn. The network is wide for its task and has what makes
pruning interesting: BatchNormalization, residual additions, a depthwise convolution, a
concatenation of two poolings, fully connected layers.
"""

from __future__ import annotations

import datetime
import json
import math
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import export

SEED = 7
EPOCHS = 60
BATCH = 64
CALIBRATION, VALIDATION, TEST = 256, 200, 450

Arrays = dict[str, npt.NDArray[np.generic]]


class Residual(nn.Module):
    """Two 3x3 convolutions with BatchNormalization, added to what came in.

    Args:
        channels: of the input and the output.
        inner: between the two convolutions.
    """

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(y)))


class DigitsNet(nn.Module):
    """A residual network for 8x8 images, 150,506 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(32)
        self.block1 = Residual(32, 48)
        self.depthwise = nn.Conv2d(32, 32, 3, stride=2, padding=1, groups=32, bias=False)
        self.depthwise_bn = nn.BatchNorm2d(32)
        self.pointwise = nn.Conv2d(32, 64, 1, bias=False)
        self.pointwise_bn = nn.BatchNorm2d(64)
        self.block2 = Residual(64, 96)
        self.fc1 = nn.Linear(2 * 64, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of digits.

        Args:
            images: float32, shape (N, 1, 8, 8), ink from 0 to 1 (scikit-learn's 0..16 over 16).

        Returns:
            Logits, float32, shape (N, 10).
        """
        x = self.block1(torch.relu(self.stem_bn(self.stem(images))))
        x = torch.relu(self.depthwise_bn(self.depthwise(x)))
        x = self.block2(torch.relu(self.pointwise_bn(self.pointwise(x))))
        x = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        logits: Tensor = self.fc2(torch.relu(self.fc1(x)))
        return logits


def split() -> Arrays:
    """All digits, in a fixed order balanced over the classes, and cut into parts.

    Returns:
        Images float32, shape (N, 1, 8, 8), ink from 0 to 1; labels int64, shape (N,), digits 0 to
        9. `train` 1,147, `validation` 200, `test` 450, disjoint; `images`, the calibration
        samples, are the first 256 of the training part, without labels.
    """
    from sklearn.datasets import load_digits  # only training needs scikit-learn

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(labels))
    # The k-th of every digit before the (k + 1)-th of any: every prefix is balanced.
    rank = np.zeros(len(labels), np.int64)
    for digit in range(10):
        where = order[labels[order] == digit]
        rank[where] = np.arange(len(where))
    order = order[np.argsort(rank[order], kind="stable")]
    images = (pixels[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    labels = labels[order].astype(np.int64)
    cuts = {
        "test": slice(0, TEST),
        "validation": slice(TEST, TEST + VALIDATION),
        "train": slice(TEST + VALIDATION, None),
    }
    parts: Arrays = {"images": images[cuts["train"]][:CALIBRATION]}
    for name, cut in cuts.items():
        parts |= {f"{name}_images": images[cut], f"{name}_labels": labels[cut]}
    return parts


def train(images: Tensor, labels: Tensor) -> DigitsNet:
    """Trains a network from scratch, with fixed seeds.

    Args:
        images: as in `DigitsNet.forward`.
        labels: int64, shape (N,), digits.

    Returns:
        The network, in evaluation mode.
    """
    torch.manual_seed(SEED)
    network = DigitsNet().train()
    steps = EPOCHS * math.ceil(len(images) / BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(images))
        for batch in (order[start : start + BATCH] for start in range(0, len(order), BATCH)):
            loss = F.cross_entropy(network(_jitter(images[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
            optimizer.step()
            schedule.step()
    return network.eval()


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of digits that are classified right, 0 to 1."""
    with torch.no_grad():
        return float((network(images).argmax(1) == labels).float().mean())


def main(folder: Path | None = None) -> None:
    """Trains, measures and writes the three files.

    Args:
        folder: where to; beside this file if None.
    """
    folder = folder or Path(__file__).parent
    torch.set_num_threads(1)  # sums in another order would give another network
    arrays = split()
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    network = train(tensors["train_images"], tensors["train_labels"])
    measured = {
        name: round(accuracy(network, tensors[f"{name}_images"], tensors[f"{name}_labels"]), 4)
        for name in ("train", "validation", "test")
    }
    export.export(network, (tensors["images"][:2],), folder / "digits.onnx", keep_batchnorm=True)
    np.savez_compressed(folder / "digits.npz", **arrays)  # type: ignore[arg-type]
    record = {
        "accuracy": measured,
        "samples": {name: len(arrays[f"{name}_labels"]) for name in measured},
        "calibration_samples": len(arrays["images"]),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "seed": SEED,
        "epochs": EPOCHS,
        "data": "Optical Recognition of Handwritten Digits, Alpaydin and Kaynak 1998, CC BY 4.0",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("torch", "onnx", "onnxscript", "numpy")}
        | {"python": platform.python_version()},
    }
    (folder / "digits.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


def _jitter(images: Tensor) -> Tensor:
    """Rotates, scales and shifts each image a little, as if it had been written anew."""
    count = len(images)
    angle = (torch.rand(count) - 0.5) * math.radians(24)
    scale = 1 + (torch.rand(count) - 0.5) * 0.2
    shift = (torch.rand(count, 2, 1) - 0.5) * 0.3
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    affine = torch.cat([turn * scale.view(-1, 1, 1), shift], 2)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


if __name__ == "__main__":
    main()
