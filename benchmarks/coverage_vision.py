"""Families of timm and torchvision for the coverage benchmark: random weights, small images.

The smallest variant of each family, at the smallest images its code accepts; of a few large ones a
narrower one is made (options after the size). Weights are random but not neutral, as in `tests.zoo`:
BatchNormalization has statistics of its input, layer scales and gates that begin at zero are opened.
"""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.coverage_networks import TIMM, TORCHVISION
from benchmarks.coverage_rows import Batch, Subject
from onnxprune.core.graph import Graph
from onnxprune.models.export import Exporter, export
from tests.perturbation import perturb
from tests.zoo import torchvision_models

# opsets rotate from network to network, so that all four meet every kind of network
EXPORTS = (
    ("torchscript 13", "dynamo 20"),
    ("torchscript 17", "dynamo 23"),
    ("torchscript 20", "dynamo 23"),
    ("torchscript 23", "dynamo 20"),
)
_TINY = 1e-2  # layer scales begin with at most this
_BATCH = 2


def subjects() -> Iterator[Subject]:
    """Yield every network of the lists."""
    sources = [("timm", TIMM, _timm), ("torchvision", TORCHVISION, _torchvision)]
    number = 0
    for source, text, factory in sources:
        for entry in filter(None, map(str.strip, text.splitlines())):
            family, name, *rest = entry.split()
            size, options = rest[0], dict(pair.split("=") for pair in rest[1:])
            typed = {key: _typed(value) for key, value in options.items()}
            shape, build = factory(name, size, typed)
            module = functools.partial(lively, build, shape)
            yield Subject(
                name=f"{source}/{name}",
                family=family,
                exports=EXPORTS[number % len(EXPORTS)],
                write=functools.partial(write, module),
                feeds=functools.partial(feeds, shape),
                module=module,
            )
            number += 1


def _typed(value: str) -> Any:
    """Read an option as Python would, where it is a number, a tuple or a name like True."""
    try:
        return ast.literal_eval(value)
    except ValueError:
        return value


def _timm(name: str, size: str, options: dict[str, Any]) -> tuple[tuple[int, ...], Any]:
    """Return the shape of a sample and a builder; `@64` tells the network its size, `64` does not."""
    torchvision_models()
    timm = importlib.import_module("timm")
    side = int(size.lstrip("@"))
    if size.startswith("@"):
        options = {"img_size": side} | options
    return (3, side, side), functools.partial(timm.create_model, name, **options)


def _torchvision(name: str, size: str, options: dict[str, Any]) -> tuple[tuple[int, ...], Any]:
    """Return the shape of a sample and a builder: `64`, or frames and side `8x64`."""
    torchvision_models()
    *frames, side = map(int, size.split("x"))
    return (3, *frames, side, side), functools.partial(_torchvision_module, name, options)


def _torchvision_module(name: str, options: dict[str, Any]) -> nn.Module:
    part, _, attribute = name.rpartition(".")
    library = importlib.import_module(".".join(filter(None, ("torchvision.models", part))))
    if part == "detection":
        options = {"weights_backbone": None} | options
    if part == "segmentation":
        options = {"weights_backbone": None} | options
    module: nn.Module = getattr(library, attribute)(weights=None, **options)
    if part == "detection":
        return Detector(module)
    return SingleOutput(module) if part == "segmentation" or "raft" in name else module


class SingleOutput(nn.Module):
    """The main output of a network that returns several: a dictionary's "out", or a list's last."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> what the network's main output is; two frames of a video for RAFT."""
        pair = images.dim() == 5  # (N, 3, frames, H, W)
        result = self.network(images[:, :, 0], images[:, :, 1]) if pair else self.network(images)
        main: Tensor = result["out"] if isinstance(result, dict) else result[-1]
        return main


class Detector(nn.Module):
    """Backbone, pyramid and heads of a detector, without the choice of boxes."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.backbone = network.backbone
        self.head = network.head if hasattr(network, "head") else network.rpn.head

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> all scores and boxes of all levels, flat: (N, M)."""
        features = self.backbone(images)
        result = self.head(list(features.values()) if isinstance(features, dict) else [features])
        parts = list(result.values()) if isinstance(result, dict) else list(result)
        flat = [t for part in parts for t in (part if isinstance(part, (list, tuple)) else [part])]
        return torch.cat([t.flatten(1) for t in flat], 1)


def lively(
    build: Callable[[], nn.Module], shape: tuple[int, ...]
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Build a network in evaluation mode whose every weight matters, and two samples for it.

    BatchNormalization gets random parameters and the statistics of one batch, then moved at random.
    Tiny constants (layer scales begin with 1e-6, gates with 0) become 0.1 to 0.5.
    """
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = build().eval()
        norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for parameter in network.parameters():
            constant = bool((parameter == parameter.flatten()[0]).all())
            if constant and (0 < parameter.abs().max() <= _TINY or parameter.dim() == 0):
                nn.init.uniform_(parameter, 0.1, 0.5)
        for norm in norms:
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 1.3)
                nn.init.normal_(norm.bias, 0.0, 0.2)
            norm.reset_running_stats()
            norm.momentum = None  # cumulative: the statistics of the one batch
            norm.train()
        if norms:
            network(samples(shape, 8))
        for norm in norms:
            norm.eval()
            assert norm.running_mean is not None
            assert norm.running_var is not None
            deviation = norm.running_var.sqrt()
            norm.running_mean += 0.2 * deviation * torch.randn_like(deviation)
            norm.running_var *= torch.empty_like(deviation).uniform_(0.7, 1.4)
            norm.running_var += 1e-3
        return network.eval(), (samples(shape, _BATCH),)


def samples(shape: tuple[int, ...], count: int) -> Tensor:
    """Draw images (or clips) that differ more than noise does: coarse parts, contrast, offset."""
    draw = torch.Generator().manual_seed(1)
    coarse = [-(-n // 8) if n > 8 else n for n in shape[1:]]
    x = F.interpolate(torch.randn(count, shape[0], *coarse, generator=draw), size=shape[1:])
    ones = [1] * (len(shape) - 1)
    contrast = 0.3 + 1.7 * torch.rand(count, shape[0], *ones, generator=draw)
    noise = torch.randn(count, *shape, generator=draw) / 2
    return (x + noise) * contrast + torch.randn(count, shape[0], *ones, generator=draw)


def feeds(shape: tuple[int, ...], graph: Graph) -> list[Batch]:
    """Return one batch for every input of the file."""
    images = np.ascontiguousarray(samples(shape, _BATCH).numpy())
    return [{value.name: images for value in graph.inputs}]


def write(
    module: Callable[[], tuple[nn.Module, tuple[Tensor, ...]]], label: str, path: Path
) -> None:
    """Write the perturbed file of one export: as it comes, else as an exporter can write it.

    That is with attention in its parts, with a fixed batch, or both.
    """
    name, opset = label.split()
    exporter: Exporter = "dynamo" if name == "dynamo" else "torchscript"
    layers = importlib.import_module("timm.layers")
    for fused, dynamic in (
        attempts := [(True, True), (False, True), (True, False), (False, False)]
    ):
        layers.set_fused_attn(fused)
        network, example = module()
        try:
            export(
                network, example, path,
                exporter=exporter, opset=int(opset), dynamic_batch=dynamic,
            )  # fmt: skip
            break
        except Exception:
            if (fused, dynamic) == attempts[-1]:
                raise
    perturb(path, path)
