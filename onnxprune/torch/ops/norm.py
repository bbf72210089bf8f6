"""Normalisations: per channel with running statistics, or with statistics of the sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..operators import Fixed, Ints, Learned, torch_op
from ..refused import MICROSOFT


@torch_op("BatchNormalization", ignores=("training_mode",), only={"spatial": (1,)})
class BatchNormalization(nn.Module):
    """Per channel: by statistics of the batch in training, which move the running ones; else by these."""

    def __init__(self, epsilon: float = 1e-5, momentum: float = 0.9) -> None:
        """Keep how much of the running statistics a step leaves."""
        super().__init__()
        self.epsilon, self.momentum = epsilon, momentum

    def forward(self, x: Tensor, scale: Learned, b: Learned, mean: Fixed, var: Fixed) -> Tensor:
        """Return x normalised; in training `mean` and `var` are written to."""
        share = 1 - self.momentum
        return F.batch_norm(x, mean, var, scale, b, self.training, share, self.epsilon)


@torch_op("InstanceNormalization", ignores=("consumed_inputs",))
def instance_norm(x: Tensor, scale: Learned, b: Learned, *, epsilon: float = 1e-5) -> Tensor:
    """Per sample and channel, over space."""
    return F.group_norm(x, x.shape[1], scale, b, epsilon)


@torch_op("GroupNormalization", since=18)
def group_norm_per_group(
    x: Tensor, scale: Learned, b: Learned, *, num_groups: int, epsilon: float = 1e-5
) -> Tensor:
    """Per sample and group of channels; scale and bias per group."""
    each = x.shape[1] // num_groups
    return F.group_norm(
        x, num_groups, scale.repeat_interleave(each), b.repeat_interleave(each), epsilon
    )


@torch_op("GroupNormalization", since=21, ignores=("stash_type",))
def group_norm(
    x: Tensor, scale: Learned, b: Learned, *, num_groups: int, epsilon: float = 1e-5
) -> Tensor:
    """Per sample and group of channels; scale and bias per channel."""
    return F.group_norm(x, num_groups, scale, b, epsilon)


@torch_op("LayerNormalization", ignores=("stash_type",))
def layer_norm(
    x: Tensor,
    scale: Learned,
    b: Learned | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    results: int,
) -> tuple[Tensor, ...]:
    """Per position, over the last axes; returns what was normalised, mean and 1 / deviation."""
    shape = x.shape[axis:]
    if scale.shape == shape and (b is None or b.shape == shape):
        y = F.layer_norm(x, shape, scale, b, epsilon)
    else:
        y = F.layer_norm(x, shape, eps=epsilon) * scale + (0 if b is None else b)
    if results == 1:
        return (y,)
    axes = list(range(axis % x.ndim, x.ndim))
    mean = x.mean(axes, keepdim=True)
    return y, mean, torch.rsqrt((x - mean).square().mean(axes, keepdim=True) + epsilon)


@torch_op("RMSNormalization", since=23, ignores=("stash_type",))
@torch_op("SimplifiedLayerNormalization", ignores=("stash_type",))
@torch_op("SimplifiedLayerNormalization", domain=MICROSOFT, ignores=("stash_type",))
def rms_norm(x: Tensor, scale: Learned, *, axis: int = -1, epsilon: float = 1e-5) -> Tensor:
    """Y = x over its root mean square on the last axes, times scale."""
    axes = list(range(axis % x.ndim, x.ndim))
    return x * torch.rsqrt(x.square().mean(axes, keepdim=True) + epsilon) * scale


@torch_op("MeanVarianceNormalization")
def mean_variance(x: Tensor, *, axes: Ints | None = None) -> Tensor:
    """Y = (x - mean) / deviation over some axes."""
    axes = axes or [0, 2, 3]
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)


@torch_op("LpNormalization")
def lp_norm(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """Y = x over its p-norm along one axis."""
    return F.normalize(x, float(p), axis, eps=1e-30)


@torch_op("LRN")
def local_response(
    x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    """Y = x / (bias + alpha * mean of squares over neighbouring channels)^beta."""
    before = (size - 1) // 2
    pads = [0, 0] * (x.ndim - 2) + [before, size - 1 - before]
    sums = F.pad(x.square(), pads).unfold(1, size, 1).sum(-1)
    return x / (bias + alpha / size * sums) ** beta


@torch_op("Softmax")
def flat_softmax(x: Tensor, *, axis: int = 1) -> Tensor:
    """Shares of a whole: all positions from `axis` on are one, before opset 13."""
    return F.softmax(_flat(x, axis), -1).reshape(x.shape)


@torch_op("LogSoftmax")
def flat_log_softmax(x: Tensor, *, axis: int = 1) -> Tensor:
    """Logarithms of shares; all positions from `axis` on are one, before opset 13."""
    return F.log_softmax(_flat(x, axis), -1).reshape(x.shape)


@torch_op("Hardmax")
def flat_hardmax(x: Tensor, *, axis: int = 1) -> Tensor:
    """One at the first largest, else zero; all positions from `axis` on are one, before opset 13."""
    return hardmax(_flat(x, axis)).reshape(x.shape)


def _flat(x: Tensor, axis: int) -> Tensor:
    return x.flatten(axis % x.ndim)


@torch_op("Softmax", since=13)
def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """Shares of the whole along one axis."""
    return F.softmax(x, axis)


@torch_op("LogSoftmax", since=13)
def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """Logarithms of shares along one axis."""
    return F.log_softmax(x, axis)


@torch_op("Hardmax", since=13)
def hardmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """One at the first largest along one axis, else zero."""
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)
