"""Pooling over windows, or over all of space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..operators import Ints, torch_op
from .linear import around, same_pads, spans

_MAX: tuple[Any, ...] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)


def _overhang(
    sizes: Sequence[int], span: Sequence[int], strides: Sequence[int], before: Sequence[int],
    after: Sequence[int],
) -> list[int]:  # fmt: skip
    """Return how far the last window reaches beyond the pads, if lengths are rounded up.

    A window that would begin beyond the input and the pads in front is left out.
    """
    found = []
    for size, width, stride, a, b in zip(sizes, span, strides, before, after, strict=True):
        count = -(-(size + a + b - width) // stride) + 1
        count -= (count - 1) * stride >= size + a
        found.append(max(0, (count - 1) * stride + width - size - a - b))
    return found


@torch_op("MaxPool", ignores=("storage_order",))
def max_pool(
    x: Tensor,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """Y is the largest value of each window."""
    rank = x.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    span = spans(kernel_shape, dilations)
    before, after = same_pads(x.shape[2:], span, strides, auto_pad, pads)
    if ceil_mode:
        extra = _overhang(x.shape[2:], span, strides, before, after)
        after = [a + e for a, e in zip(after, extra, strict=True)]
    if before != after or any(2 * a > k for a, k in zip(before, kernel_shape, strict=True)):
        least = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
        x, before = F.pad(x, around(before, after), value=least), [0] * rank
    y: Tensor = _MAX[rank - 1](x, kernel_shape, strides, before, dilations)
    return y


def _window_sums(
    x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Tensor:
    """Return the sum of each window."""
    rank = x.ndim - 2
    ones = torch.ones(1, 1, *kernel, dtype=x.dtype, device=x.device)
    flat = x.reshape(-1, 1, *x.shape[2:])
    sums = torch.convolution(flat, ones, None, strides, [0] * rank, dilations, False, [0] * rank, 1)
    return sums.reshape(*x.shape[:2], *sums.shape[2:])


@torch_op("AveragePool")
def average_pool(
    x: Tensor,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """Y is the mean of each window, over what is inside, or over the pads as well."""
    rank = x.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    span = spans(kernel_shape, dilations)
    before, after = same_pads(x.shape[2:], span, strides, auto_pad, pads)
    extra = [0] * rank
    if ceil_mode:
        extra = _overhang(x.shape[2:], span, strides, before, after)
    plain = not (any(before) or any(after) or any(extra))
    if plain and span == list(kernel_shape):
        mean: Tensor = _MEAN[rank - 1](x, kernel_shape, strides)
        return mean
    ends = [a + e for a, e in zip(after, extra, strict=True)]
    inside = torch.ones_like(x[:1, :1])
    if count_include_pad:
        inside = F.pad(inside, around(before, after), value=1.0)
        inside = F.pad(inside, around([0] * rank, extra))
    else:
        inside = F.pad(inside, around(before, ends))
    sums = _window_sums(F.pad(x, around(before, ends)), kernel_shape, strides, dilations)
    return sums / _window_sums(inside, kernel_shape, strides, dilations)


_MEAN: tuple[Any, ...] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


@torch_op("LpPool")
def lp_pool(
    x: Tensor,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    p: int = 2,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """Y is the p-norm of each window."""
    rank = x.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    span = spans(kernel_shape, dilations)
    before, after = same_pads(x.shape[2:], span, strides, auto_pad, pads)
    if ceil_mode:
        extra = _overhang(x.shape[2:], span, strides, before, after)
        after = [a + e for a, e in zip(after, extra, strict=True)]
    powers = F.pad(x.abs() ** p, around(before, after))
    return _window_sums(powers, kernel_shape, strides, dilations) ** (1 / p)


def _space(x: Tensor) -> list[int]:
    return list(range(2, x.ndim))


@torch_op("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    """Y is the mean over space."""
    return x.mean(_space(x), keepdim=True)


@torch_op("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    """Y is the largest value over space."""
    return x.amax(_space(x), keepdim=True)


@torch_op("GlobalLpPool")
def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    """Y is the p-norm over space."""
    norm: Tensor = torch.linalg.vector_norm(x, p, _space(x), keepdim=True)
    return norm
