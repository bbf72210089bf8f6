"""Architectures to prune in tests, exported on demand and kept on disk.

Everything is random but not neutral: BatchNormalization has the statistics of its input and random
scales and shifts, and constants are perturbed after export (see `tests.perturbation`).
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from onnxprune.models import export as exporting
from onnxprune.models.export import Exporter
from onnxprune.models.lenet import LeNet5
from onnxprune.models.resnet import CifarResNet
from onnxprune.models.vgg import VGG16
from tests.perturbation import perturb

__all__ = [
    "ARCHITECTURES",
    "CASES",
    "Architecture",
    "UNet",
    "build",
    "exported",
    "perturb",
    "samples",
]


class UNet(nn.Module):
    """Two levels down and up, with ConvTranspose and Concat; (N, 3, H, W) -> (N, 2, H, W)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.down1 = _double(3, width)
        self.down2 = _double(width, 2 * width)
        self.bottom = _double(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.merge2 = _double(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.merge1 = _double(2 * width, width)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.down1(images)
        middle = self.down2(nn.functional.max_pool2d(fine, 2))
        x = self.bottom(nn.functional.max_pool2d(middle, 2))
        x = self.merge2(torch.cat([middle, self.up2(x)], 1))
        x = self.merge1(torch.cat([fine, self.up1(x)], 1))
        scores: Tensor = self.head(x)
        return scores


@dataclass(frozen=True, slots=True)
class Architecture:
    """How to make a network.

    Attributes:
        factory: returns it with random weights.
        shape: of one input sample, without the batch.
        batchnorm: whether it has BatchNormalization, so that keeping it makes a difference.
    """

    factory: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batchnorm: bool = True


def _double(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )


@functools.cache  # keeps the library alive: when collected it takes its operators with it
def _define_operators() -> Any:
    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def torchvision_models() -> Any:
    """Returns torchvision's models, also where its compiled operators do not match torch."""
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError:
        for broken in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[broken]
        _define_operators()
        return importlib.import_module("torchvision.models")


def _torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    def factory() -> nn.Module:
        module: nn.Module = getattr(torchvision_models(), name)(weights=None, **options)
        return module

    return factory


# Inputs are as small as the architecture allows: pruning does not look at height and width.
ARCHITECTURES: dict[str, Architecture] = {
    "mlp": Architecture(_mlp, (64,), batchnorm=False),
    "lenet5": Architecture(LeNet5, (1, 28, 28), batchnorm=False),
    "vgg16bn_cifar": Architecture(VGG16, (3, 32, 32)),
    "resnet20": Architecture(CifarResNet, (3, 32, 32)),
    "unet": Architecture(UNet, (3, 32, 32)),
    "resnet18": Architecture(_torchvision("resnet18"), (3, 64, 64)),
    "resnet50": Architecture(_torchvision("resnet50"), (3, 64, 64)),
    "mobilenet_v2": Architecture(_torchvision("mobilenet_v2"), (3, 64, 64)),
    "mobilenet_v3_small": Architecture(_torchvision("mobilenet_v3_small"), (3, 64, 64)),
    "efficientnet_b0": Architecture(_torchvision("efficientnet_b0"), (3, 64, 64)),
    "densenet121": Architecture(_torchvision("densenet121"), (3, 64, 64)),
    "inception_v3": Architecture(
        _torchvision("inception_v3", aux_logits=False, init_weights=False), (3, 96, 96)
    ),
    "regnet_y_400mf": Architecture(_torchvision("regnet_y_400mf"), (3, 64, 64)),
    "shufflenet_v2_x1_0": Architecture(_torchvision("shufflenet_v2_x1_0"), (3, 64, 64)),
    "convnext_tiny": Architecture(_torchvision("convnext_tiny"), (3, 64, 64), batchnorm=False),
}

# Every distinct export: (name, exporter, keep_batchnorm).
CASES: list[tuple[str, Exporter, bool]] = [
    (name, exporter, keep)
    for name, architecture in ARCHITECTURES.items()
    for exporter in ("dynamo", "torchscript")
    for keep in ((False, True) if architecture.batchnorm else (False,))
]


def build(name: str, *, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """A network in evaluation mode and two samples for it.

    Weights come from the architecture's own initialisation. BatchNormalization gets random
    parameters; one batch is run in training mode, so that its statistics fit and activations keep
    their size; then the statistics are moved at random. Layer scales (ConvNeXt begins with 1e-6,
    which would make its blocks invisible) become 0.1 to 0.5.
    """
    architecture = ARCHITECTURES[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = architecture.factory()
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            nn.init.uniform_(norm.weight, 0.5, 1.3)
            nn.init.normal_(norm.bias, 0.0, 0.2)
            norm.momentum = None  # cumulative: the statistics of the one batch
        with torch.no_grad():
            if norms:
                network.train()(torch.from_numpy(samples(name, 16, seed=seed)))
            for norm in norms:
                _move_statistics(norm)
            for parameter_name, parameter in network.named_parameters():
                if parameter_name.endswith("layer_scale"):
                    nn.init.uniform_(parameter, 0.1, 0.5)
        return network.eval(), torch.randn(2, *architecture.shape)


def samples(name: str, count: int = 3, *, seed: int = 0) -> npt.NDArray[np.float32]:
    """Inputs that differ more than noise does, which deep networks average away.

    Every sample has its own offset and contrast in each channel, half of it coarse (equal over
    eight pixels).

    Args:
        name: key of `ARCHITECTURES`.
        count: how many samples.
        seed: of the random numbers.

    Returns:
        Shape (count, *shape of one input).
    """
    shape = ARCHITECTURES[name].shape
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, *shape))
    if len(shape) == 3:
        repeated = np.kron(
            rng.standard_normal((count, *(-(-n // 8) for n in shape[1:]))), np.ones((8, 8))
        )
        x = x / 2 + repeated[:, None, : shape[1], : shape[2]]
        x = x * rng.uniform(0.3, 2, (count, shape[0], 1, 1)) + rng.standard_normal(
            (count, shape[0], 1, 1)
        )
    return x.astype(np.float32)


def exported(
    name: str, exporter: Exporter, keep_batchnorm: bool, folder: Path | None = None
) -> Path:
    """The perturbed ONNX file of an architecture, with a dynamic batch; exported once.

    Args:
        name: key of `ARCHITECTURES`.
        exporter: which of PyTorch's exporters.
        keep_batchnorm: keep BatchNormalization nodes; with dynamo the graph is then raw.
        folder: where files are kept; $ONNXPRUNE_ZOO if None. Files made by another version of
            this code or of torch are not used.

    Returns:
        The file; read it, do not write it.
    """
    folder = Path(os.environ["ONNXPRUNE_ZOO"]) if folder is None else folder
    folder = folder / _fingerprint()
    path = folder / f"{name}.{exporter}.{'bn' if keep_batchnorm else 'folded'}.onnx"
    if not path.exists():
        network, batch = build(name)
        # Renamed at the end, so that test processes side by side never read half a file.
        draft = folder / f"{path.name}.{os.getpid()}"
        exporting.export(
            network,
            (batch,),
            draft,
            exporter=exporter,
            keep_batchnorm=keep_batchnorm,
            raw=True,
        )
        perturb(draft, draft).rename(path)
    return path


def _move_statistics(norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    deviation = norm.running_var.sqrt()
    norm.running_mean += 0.2 * deviation * torch.randn_like(deviation)
    norm.running_var *= torch.empty_like(deviation).uniform_(0.7, 1.4)
    norm.running_var += 1e-3


def _fingerprint() -> str:
    """Names what the files depend on, so that old ones are never mistaken for new ones."""
    digest = hashlib.sha256(torch.__version__.encode())
    sources = [__file__, sys.modules[perturb.__module__].__file__, exporting.__file__]
    sources += [sys.modules[model.__module__].__file__ for model in (LeNet5, CifarResNet, VGG16)]
    for source in sources:
        assert source is not None
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()[:16]
