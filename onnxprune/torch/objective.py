"""The loss whose derivatives criteria look at: of the labels if there are any, else of own answers.

By its own soft outputs as targets a model has no gradient: it is where that loss is least. So without
labels the target is drawn from what the model says. Of classes it is the likeliest one; of other
outputs y it is y + e, where e is Gaussian noise as wide as y itself varies. Squared gradients are then
those of the Fisher information (Kunstner et al. 2019, arXiv 1905.12558, 2).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import DataError
from ..core.graph import Array
from ..core.patches import Keys

_LEAST = 1e-12


def loss_of(outputs: Sequence[Tensor], keys: Keys, labels: Array | None = None) -> Tensor:
    """Return the sum over samples of the loss.

    Args:
        outputs: of the model; samples come first.
        keys: one per sample, which its noise depends on.
        labels: class numbers, shape (N, ...) of the first output without its axis 1; or, of the
            shape of an output, logits or shares that a teacher gave; None: own answers.

    Raises:
        DataError: if no output fits the labels.
    """
    floats = [y for y in outputs if y.is_floating_point() and y.ndim]
    if labels is not None:
        return _by_labels(floats, torch.from_numpy(np.ascontiguousarray(labels)))
    return torch.stack([_by_itself(y, keys) for y in floats]).mean()


def _by_labels(outputs: list[Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy, mean over positions, of the first output that the labels fit."""
    for y in outputs:
        if labels.is_floating_point() and labels.shape == y.shape and y.ndim > 1:
            shares = labels if is_shares(labels) else labels.softmax(1)
            return _mean(F.cross_entropy(_logits(y), shares.to(y), reduction="none"))
        positions = (len(y), *y.shape[2:])
        if y.ndim > 1 and not labels.is_floating_point() and labels.numel() == np.prod(positions):
            if not 0 <= int(labels.min()) <= int(labels.max()) < y.shape[1]:
                raise DataError(
                    f"labels lie between {int(labels.min())} and {int(labels.max())}, the model has "
                    f"{y.shape[1]} classes: give class numbers from 0"
                )
            rows = labels.reshape(positions).long()
            return _mean(F.cross_entropy(_logits(y), rows, reduction="none"))
    shapes = " and ".join(str(list(y.shape)) for y in outputs) or "none that is float"
    raise DataError(
        f"labels of shape {list(labels.shape)} and type {labels.dtype} fit no output of the model "
        f"(shapes: {shapes}): give one class per sample, or leave out --labels"
    )


def _by_itself(y: Tensor, keys: Keys) -> Tensor:
    """Return the loss of an output by a target that is drawn from it."""
    if y.ndim == 2 and y.shape[1] > 1:
        return F.cross_entropy(_logits(y), y.detach().argmax(1), reduction="sum")
    own = y.detach().reshape(len(keys), -1)  # a sample may spread over several entries
    width = own.std(correction=0).clamp(min=_LEAST)
    noise = np.stack([np.random.default_rng(int(k)).standard_normal(own.shape[1]) for k in keys])
    target = own + width * torch.from_numpy(noise).to(own)
    return ((y.reshape(own.shape) - target) / width).square().mean(1).sum() / 2


def _mean(losses: Tensor) -> Tensor:
    """Sum over samples, mean over positions."""
    return losses.reshape(len(losses), -1).mean(1).sum()


def _logits(y: Tensor) -> Tensor:
    """Return what a softmax makes the output of: shares become their logarithms."""
    return y.clamp(min=_LEAST).log() if is_shares(y.detach()) else y


def is_shares(y: Tensor) -> bool:
    """Tell whether values along axis 1 are shares of one."""
    return bool((y >= 0).all()) and bool(((y.sum(1) - 1).abs() < 1e-3).all())
