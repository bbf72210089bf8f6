"""Reductions along axes, which are an attribute or (from some opset on) an operand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..operators import Ints, Number, torch_op
from .unary import scalar


def _over(
    function: Callable[[Tensor, list[int], bool], Tensor],
    x: Tensor,
    axes: list[int] | None,
    keepdims: int,
    noop_with_empty_axes: int,
) -> Tensor:
    """Reduce over the given axes; over all of them if none are given, unless that means nothing."""
    if not axes:
        if noop_with_empty_axes:
            return function(x.unsqueeze(-1), [-1], False)
        axes = list(range(x.ndim))
    return function(x, axes, bool(keepdims)) if axes else function(x.unsqueeze(0), [0], False)


@torch_op("ReduceMean")
def reduce_mean(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Y is the mean over axes."""
    return _over(torch.mean, x, axes, keepdims, noop_with_empty_axes)


@torch_op("ReduceSum")
def reduce_sum(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Y is the sum over axes."""
    return _over(torch.sum, x, axes, keepdims, noop_with_empty_axes)


@torch_op("ReduceMax")
def reduce_max(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Y is the largest value over axes."""
    return _over(torch.amax, x, axes, keepdims, noop_with_empty_axes)


@torch_op("ReduceMin")
def reduce_min(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Y is the smallest value over axes."""
    return _over(torch.amin, x, axes, keepdims, noop_with_empty_axes)


@torch_op("ReduceProd")
def reduce_prod(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Y is the product over axes."""
    return _over(_product, x, axes, keepdims, noop_with_empty_axes)


@torch_op("ReduceL1")
def reduce_l1(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Y is the sum of magnitudes over axes."""
    return _over(_l1, x, axes, keepdims, noop_with_empty_axes)


@torch_op("ReduceL2")
def reduce_l2(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Y is the root of the sum of squares over axes."""
    return _over(_l2, x, axes, keepdims, noop_with_empty_axes)


@torch_op("ReduceSumSquare")
def reduce_sumsquare(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Y is the sum of squares over axes."""
    return _over(_squares, x, axes, keepdims, noop_with_empty_axes)


@torch_op("ReduceLogSum")
def reduce_logsum(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Y is the logarithm of the sum over axes."""
    return _over(_log_sum, x, axes, keepdims, noop_with_empty_axes)


@torch_op("ReduceLogSumExp")
def reduce_logsumexp(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Y is the logarithm of the sum of exponentials over axes."""
    return _over(torch.logsumexp, x, axes, keepdims, noop_with_empty_axes)


def _product(x: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keepdims)
    return x


def _l1(x: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    return x.abs().sum(axes, keepdim=keepdims)


def _l2(x: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, 2, axes, keepdim=keepdims)
    return norm


def _squares(x: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    return x.square().sum(axes, keepdim=keepdims)


def _log_sum(x: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    return x.sum(axes, keepdim=keepdims).log()


@torch_op("ArgMax")
def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Y is where the largest is along an axis, the first of equals or the last."""
    if select_last_index:
        return x.shape[axis] - 1 - x.flip(axis).argmax(axis, keepdim=bool(keepdims))
    return x.argmax(axis, keepdim=bool(keepdims))


@torch_op("ArgMin")
def arg_min(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Y is where the smallest is along an axis, the first of equals or the last."""
    return arg_max(-x, axis=axis, keepdims=keepdims, select_last_index=select_last_index)


@torch_op("CumSum")
def cumulative_sum(x: Tensor, axis: Number, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Y is the sum of all up to here along an axis, without or with what is here."""
    place = int(scalar(axis) or 0)
    y = x.flip(place) if reverse else x
    sums = y.cumsum(place)
    sums = sums - y if exclusive else sums
    return (sums.flip(place) if reverse else sums).to(x.dtype)
