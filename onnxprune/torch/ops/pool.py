"""Pooling over windows, or over all of space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..operators import Ints, torch_op
from .windows import Windows, around, windows

_MAX: tuple[Any, ...] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)


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
    by = windows(x, kernel_shape, auto_pad, dilations, pads, strides, ceil_mode)
    before, ends = by.before, by.ends
    if before != ends or any(2 * a > k for a, k in zip(before, kernel_shape, strict=True)):
        least = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
        x, before = F.pad(x, around(before, ends), value=least), [0] * rank
    y: Tensor = _MAX[rank - 1](x, kernel_shape, by.strides, before, by.dilations)
    return y


def _window_sums(x: Tensor, kernel: Sequence[int], by: Windows) -> Tensor:
    """Return the sum of each window; pads are there already."""
    rank = x.ndim - 2
    ones = torch.ones(1, 1, *kernel, dtype=x.dtype, device=x.device)
    flat = x.reshape(-1, 1, *x.shape[2:])
    none = [0] * rank
    sums = torch.convolution(flat, ones, None, by.strides, none, by.dilations, False, none, 1)
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
    by = windows(x, kernel_shape, auto_pad, dilations, pads, strides, ceil_mode)
    if not any((*by.before, *by.ends)) and set(by.dilations) == {1}:
        mean: Tensor = _MEAN[rank - 1](x, kernel_shape, by.strides)
        return mean
    counted = F.pad(
        torch.ones_like(x[:1, :1]), around(by.before, by.after), value=float(count_include_pad)
    )
    counted = F.pad(counted, around([0] * rank, by.beyond))
    sums = _window_sums(F.pad(x, around(by.before, by.ends)), kernel_shape, by)
    return sums / _window_sums(counted, kernel_shape, by)


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
    by = windows(x, kernel_shape, auto_pad, dilations, pads, strides, ceil_mode)
    powers = F.pad(x.abs() ** p, around(by.before, by.ends))
    return _window_sums(powers, kernel_shape, by) ** (1 / p)


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
