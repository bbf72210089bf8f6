"""Quantised values: whole numbers carried as floats, rounded with the gradient of what they round.

So a graph with QuantizeLinear and DequantizeLinear trains as it will be run (straight-through
estimator, Bengio et al. 2013, arXiv 1308.3432). Weights stored as integers are not learned.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..operators import Fixed, torch_op
from ..refused import MICROSOFT


def rounded(x: Tensor) -> Tensor:
    """Return x rounded, halves to even; its gradient is that of x."""
    return torch.round(x).detach() + (x - x.detach())


def _along(vector: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """Return scales or zero points in a shape that goes with x: per tensor, per axis, or in blocks."""
    if block:
        return vector.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    if vector.numel() == 1:
        return vector.reshape(())
    shape = [1] * x.ndim
    shape[axis] = -1
    return vector.reshape(shape)


@torch_op("QuantizeLinear", ignores=("saturate", "precision"), only={"output_dtype": (0, 2, 3)})
@torch_op("QuantizeLinear", domain=MICROSOFT)
def quantize(
    x: Tensor, scale: Fixed, zero: Fixed | None = None, *, axis: int = 1, block_size: int = 0
) -> Tensor:
    """Y = round(x / scale) + zero within the range of the zero point's type."""
    limits = torch.iinfo(torch.uint8 if zero is None else zero.dtype)
    y = rounded(x / _along(scale, x, axis, block_size))
    if zero is not None:
        y = y + _along(zero, x, axis, block_size).to(y.dtype)
    return y.clamp(limits.min, limits.max)


@torch_op("DequantizeLinear", ignores=("output_dtype",))
@torch_op("DequantizeLinear", domain=MICROSOFT)
def dequantize(
    x: Tensor, scale: Fixed, zero: Fixed | None = None, *, axis: int = 1, block_size: int = 0
) -> Tensor:
    """Y = (x - zero) scale."""
    y = x.to(scale.dtype)
    if zero is not None:
        y = y - _along(zero, x, axis, block_size).to(scale.dtype)
    return y * _along(scale, x, axis, block_size)


@torch_op("DynamicQuantizeLinear")
def dynamic_quantize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """X in 256 steps of its own range, the step, and the zero point."""
    low, high = x.detach().amin().clamp(max=0), x.detach().amax().clamp(min=0)
    scale = (high - low) / 255
    zero = torch.round(-low / scale).clamp(0, 255)
    return (rounded(x / scale) + zero).clamp(0, 255), scale, zero
