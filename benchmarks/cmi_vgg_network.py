"""VGG-16-BN for CIFAR-10 as `cmi_vgg.py` prunes it: trained here in minutes, written, read and trained on.

The network is `onnxprune.models.vgg.VGG16` with one linear layer as its head (14.7 M parameters).
Training is made to fit a processor: half precision (bfloat16) where it multiplies, a first part of
the time on images of half the size, and a rate that falls to zero when the time is over. How many
images were seen is kept with the weights, so that a result says what it is a result of.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from benchmarks import cifar
from onnxprune.core.runtime import Session
from onnxprune.models.export import export
from onnxprune.models.vgg import VGG16
from onnxprune.torch import from_onnx, to_onnx

BATCH, DECAY, SMOOTHING = 128, 0.05, 0.1
RATE, WARM = 1e-3, 0.1  # peak of AdamW's rate, and the share of the training until it
AGAIN = 3e-4  # peak when a pruned network is trained on
SMALL = 0.6  # share of the training that is spent on images of half the size, at the start
COST = 0.32  # of a step on those, over that of a whole one (MACs)
SHIFT = 4  # pixels that a crop may be moved
SAVE = 60  # seconds between checkpoints
TOLD = 50  # images that are classified at once

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Normalised images, float16, shape (N, 3, 32, 32), and their classes, int64, shape (N,)."""

    x: Tensor
    y: Tensor

    @classmethod
    def read(cls, parts: int) -> Pictures:
        """Read the first `parts` of the five parts of the training images.

        Raises:
            NoDataError: if they are not there.
        """
        found = [cifar.images(f"train_{part + 1}", 10_000) for part in range(parts)]
        x = torch.cat([torch.from_numpy(images.x).half() for images in found])
        return cls(x, torch.from_numpy(np.concatenate([images.y for images in found])))

    def batches(self, draw: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Give batches without end: every image once an epoch, shifted and mirrored by chance."""
        padded = nn.functional.pad(self.x, (SHIFT,) * 4, mode="reflect")
        while True:
            order = torch.randperm(len(self.x), generator=draw)
            whole = len(order) // BATCH * BATCH
            for chosen in order[:whole].reshape(-1, BATCH):
                yield _moved(padded[chosen], draw), self.y[chosen]


def _moved(padded: Tensor, draw: torch.Generator) -> Tensor:
    """Crop each image at its own place and mirror half of them: float32, channels last."""
    count, _, height, width = padded.shape
    height, width = height - 2 * SHIFT, width - 2 * SHIFT
    down, right = torch.randint(0, 2 * SHIFT + 1, (2, count, 1), generator=draw)
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    mirrored = torch.rand(count, 1, generator=draw) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    sample = torch.arange(count)[:, None, None]
    # Indices around a slice put the channels last: shape (N, H, W, 3).
    cropped = padded[sample, :, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2).float()


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long to train: until either limit is reached.

    Attributes:
        seconds: wall time of the steps.
        images: as many as are seen; those of half the size count by their cost.
        rate: peak of the learning rate, which rises and falls linearly.
        small: share of the training on images of half the size.
    """

    seconds: float = math.inf
    images: float = math.inf
    rate: float = RATE
    small: float = SMALL

    def progress(self, elapsed: float, seen: tuple[int, int]) -> float:
        """Return the share of the training that is over."""
        return max(elapsed / self.seconds, (seen[0] * COST + seen[1]) / self.images)

    def at(self, progress: float) -> float:
        """Return the rate when a share of the training is over."""
        return self.rate * min(progress / WARM, (1 - progress) / (1 - WARM))


@dataclasses.dataclass
class Training:
    """A network, its optimiser and how far they are."""

    model: nn.Module
    seed: int = 0
    elapsed: float = 0.0  # seconds of steps
    seen: tuple[int, int] = (0, 0)  # images, of half and of full size

    def __post_init__(self) -> None:
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = torch.optim.AdamW(self.model.parameters(), weight_decay=DECAY, fused=True)

    def run(
        self, data: Pictures, schedule: Schedule, path: Path | None = None, report: Report = print
    ) -> None:
        """Train until it is over; with a path, save to it."""
        draw = torch.Generator().manual_seed(self.seed + sum(self.seen))
        saved, losses = self.elapsed, []
        self.model.train()
        for x, y in data.batches(draw):
            progress = schedule.progress(self.elapsed, self.seen)
            if progress >= 1:
                break
            began = time.monotonic()
            losses.append(self._step(x, y, schedule.at(progress), progress < schedule.small))
            self.elapsed += time.monotonic() - began
            if self.elapsed - saved > SAVE:
                report(
                    f"{self.elapsed:.0f} s, {self.seen} images, loss {np.mean(losses[-100:]):.3f}"
                )
                saved = self.elapsed
                if path is not None:
                    self.save(path)
        if path is not None:
            self.save(path)
        self.model.eval()

    def _step(self, x: Tensor, y: Tensor, rate: float, small: bool) -> float:
        """Take one step and return its loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            logits = _at_half_size(self.model, x) if small else self.model(x)
        loss = nn.functional.cross_entropy(logits.float(), y, label_smoothing=SMOOTHING)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        halves, wholes = self.seen
        self.seen = (halves + len(x), wholes) if small else (halves, wholes + len(x))
        return loss.item()

    def save(self, path: Path) -> None:
        """Write everything, whole or not at all."""
        partial = path.with_suffix(".partial")
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "elapsed": self.elapsed,
                "seen": self.seen,
            },
            partial,
        )
        partial.replace(path)

    def resumed(self, path: Path, schedule: Schedule) -> bool:
        """Go on from what a file holds, if it is there; tell whether nothing is left to do."""
        if path.exists():
            held = torch.load(path, weights_only=True)
            self.model.load_state_dict(held["model"])
            self.optimiser.load_state_dict(held["optimiser"])
            self.elapsed, self.seen = held["elapsed"], tuple(held["seen"])
        return schedule.progress(self.elapsed, self.seen) >= 1


def _at_half_size(model: nn.Module, x: Tensor) -> Tensor:
    """Return logits of images halved, without the fourth pool: the last stage then works at 2x2."""
    x = nn.functional.avg_pool2d(x, 2)
    assert isinstance(model, VGG16)
    pools = [i for i, layer in enumerate(model.features) if isinstance(layer, nn.MaxPool2d)]
    for number, layer in enumerate(model.features):
        if number != pools[3]:
            x = layer(x)
    logits: Tensor = model.head(torch.flatten(x, 1))
    return logits


def written(model: VGG16, path: Path) -> Path:
    """Write the network as ONNX, with its BatchNormalization, so that it can be trained on."""
    example = [torch.zeros(2, 3, 32, 32)]
    return export(model, example, path, keep_batchnorm=True)


def retrained(path: Path, target: Path, data: Pictures, images: int, seed: int) -> Path:
    """Train a (pruned) file on, as long as `images` images last, and write it."""
    model = from_onnx(path)
    training = Training(model, seed)
    training.run(data, Schedule(images=images, rate=AGAIN, small=0.0))
    onnx.save(to_onnx(model, path), target)
    return target


def widths(path: Path) -> tuple[int, ...]:
    """Return the filters of each convolution of a file."""
    weights = {w.name: w.dims[0] for w in onnx.load(path).graph.initializer}
    convolutions = [node for node in onnx.load(path).graph.node if node.op_type == "Conv"]
    return tuple(weights[node.input[1]] for node in convolutions)


def accuracy(path: Path, images: cifar.Images) -> float:
    """Return the share of images that a file classifies right."""
    session, right = Session(path, threads=1), 0
    for start in range(0, len(images.x), TOLD):
        part = slice(start, start + TOLD)
        (scores,) = session.run({session.inputs[0]: images.x[part]}).values()
        right += int((scores.argmax(axis=1) == images.y[part]).sum())
    return right / len(images.x)
