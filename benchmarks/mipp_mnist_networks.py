"""MNIST, the networks of `mipp_mnist.py`, and their way to ONNX and back.

The images are `mnist.npz` of the folder of data (see `cifar.py`): `x_train`, `y_train`, `x_test`,
`y_test`, uint8.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from cifar import NoDataError, folder
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from onnxprune import interface
from onnxprune.models.export import export
from onnxprune.models.lenet import LeNet5

MEAN, STD = 0.1307, 0.3081
# Table 2 of the paper, but for batches of 100: these few epochs need more steps.
BATCH, RATE, MOMENTUM, DECAY = 20, 1e-2, 0.9, 1e-4


@dataclasses.dataclass(frozen=True)
class Digits:
    """Normalised images, float32, shape (N, 1, 28, 28), and their digits, int64, shape (N,)."""

    x: Tensor
    y: Tensor

    def part(self, start: int, stop: int) -> Digits:
        """Return some of them."""
        return Digits(self.x[start:stop], self.y[start:stop])

    def pixels(self, features: Sequence[int]) -> Digits:
        """Return flattened images with these pixels only; all as they are where none is named."""
        return Digits(self.x.flatten(1)[:, list(features)], self.y) if features else self

    @property
    def array(self) -> NDArray[np.float32]:
        """The images as an array."""
        return np.ascontiguousarray(self.x.numpy())


def digits(part: str) -> Digits:
    """Read "train" or "test".

    Raises:
        NoDataError: if the file is not there.
    """
    path = folder() / "mnist.npz"
    if not path.is_file():
        raise NoDataError(f"no images at '{path}' (see benchmarks/mipp_mnist_networks.py)")
    with np.load(path) as file:
        x, y = file[f"x_{part}"], file[f"y_{part}"].astype(np.int64)
    x = ((x / 255.0 - MEAN) / STD).astype(np.float32)[:, None]
    return Digits(torch.from_numpy(x), torch.from_numpy(y))


class Perceptron(nn.Module):
    """784 - 300 - 100 - 10 with ReLU; reads flattened images, shape (N, 784)."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(784, 300), nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape (N, classes)."""
        x = torch.relu(self.fc1(images))
        logits: Tensor = self.fc3(torch.relu(self.fc2(x)))
        return logits


NETWORKS: dict[str, type[nn.Module]] = {"lenet5": LeNet5, "mlp": Perceptron}


def trained(model: nn.Module, data: Digits, epochs: float, seed: int) -> nn.Module:
    """Train in place, with the paper's optimiser, and return it."""
    draw = torch.Generator().manual_seed(seed)
    steps = round(epochs * len(data.x) / BATCH)
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    model.train()
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < BATCH:
            order = torch.randperm(len(data.x), generator=draw)
        chosen, order = order[:BATCH], order[BATCH:]
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(data.x[chosen]), data.y[chosen]).backward()
        optimiser.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, data: Digits) -> float:
    """Return the share of digits told rightly."""
    model.eval()
    right = sum(
        int((model(x).argmax(dim=1) == y).sum())
        for x, y in zip(data.x.split(1000), data.y.split(1000), strict=True)
    )
    return right / len(data.x)


def written(model: nn.Module, data: Digits, path: Path) -> Path:
    """Write a network as ONNX; its weights keep their names."""
    return export(model, [data.x[:2]], path, exporter="torchscript")


def read(path: Path, name: str) -> nn.Module:
    """Return a (pruned) file as the network `name` with layers of its widths."""
    arrays = {w.name: numpy_helper.to_array(w) for w in onnx.load(path).graph.initializer}
    model = NETWORKS[name]()
    for layer, module in list(model.named_children()):
        if f"{layer}.weight" in arrays:
            setattr(model, layer, _resized(module, arrays[f"{layer}.weight"].shape))
    state = {key: torch.from_numpy(arrays[key].copy()) for key in model.state_dict()}
    model.load_state_dict(state)
    return model


def features(path: Path) -> tuple[int, ...]:
    """Return the pixels that a file reads, where it reads flattened images; else none."""
    model = onnx.load(path)
    for part in interface(path).parts:
        return tuple(int(pixel) for pixel in part.kept)
    shape = model.graph.input[0].type.tensor_type.shape.dim
    return tuple(range(shape[1].dim_value)) if len(shape) == 2 else ()


def widths(model: nn.Module) -> tuple[int, ...]:
    """Return the nodes of each hidden layer."""
    layers = [m for m in model.children() if isinstance(m, nn.Conv2d | nn.Linear)]
    return tuple(len(layer.weight) for layer in layers[:-1])


def _resized(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Return a layer of the same kind whose weight has this shape."""
    if isinstance(module, nn.Conv2d):
        return nn.Conv2d(shape[1], shape[0], module.kernel_size, padding=module.padding)  # type: ignore[arg-type]
    return nn.Linear(shape[1], shape[0])
