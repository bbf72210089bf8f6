"""Conv, ConvTranspose, Gemm, MatMul, Einsum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..operators import Ints, Learned, torch_op
from .windows import around, same_pads, spans, windows

# by rank: on a CPU mixed precision reaches these, and not `torch.convolution`
_CONV = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


@torch_op("Conv", ignores=("kernel_shape",))
def conv(
    x: Tensor,
    w: Learned,
    b: Learned | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """y[n,o] = sum_i x[n,i] * w[o,i] + b[o] over windows of any number of spatial axes."""
    by = windows(x, w.shape[2:], auto_pad, dilations, pads, strides)
    before = by.before
    if before != by.after:
        x, before = F.pad(x, around(before, by.after)), [0] * len(before)
    return _CONV[x.ndim - 3](x, w, b, by.strides, before, by.dilations, group)


@torch_op("ConvTranspose", ignores=("kernel_shape",))
def conv_transpose(
    x: Tensor,
    w: Learned,
    b: Learned | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    output_padding: Ints | None = None,
    output_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """y[n,o] = sum_i x[n,i] w[i,o] + b[o], spread by the stride; pads are cut from the result."""
    rank = x.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    extra = output_padding or [0] * rank
    full = [
        (size - 1) * stride + span
        for size, stride, span in zip(
            x.shape[2:], strides, spans(w.shape[2:], dilations), strict=True
        )
    ]
    if output_shape or auto_pad.startswith("SAME"):
        wanted = output_shape or [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
        before, after = _cut(full, extra, wanted[-rank:], auto_pad)
    else:
        before, after = same_pads(full, full, strides, auto_pad, pads)
    y = _TRANSPOSED[rank - 1](x, w, None, strides, 0, 0, group, dilations)
    ends = [e - a for e, a in zip(extra, after, strict=True)]
    if any(before) or any(ends):
        y = F.pad(y, around([-n for n in before], ends))
    return y if b is None else y + b.reshape(-1, *[1] * rank)


def _cut(
    full: Sequence[int], extra: Sequence[int], wanted: Sequence[int], auto_pad: str
) -> tuple[list[int], list[int]]:
    """Return what is cut from either end of a transposed convolution to give the wanted size."""
    total = [f + e - w for f, e, w in zip(full, extra, wanted, strict=True)]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return (small, large) if auto_pad == "SAME_UPPER" else (large, small)


@torch_op("Gemm", ignores=("broadcast",))
def gemm(
    a: Tensor,
    b: Learned,
    c: Learned | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """Y = alpha op(a) op(b) + beta c."""
    a, b = a.t() if transA else a, b.t() if transB else b
    if c is None:
        return torch.mm(a, b) if alpha == 1 else alpha * torch.mm(a, b)
    return torch.addmm(c, a, b, alpha=alpha, beta=beta)


@torch_op("MatMul")
def matmul(a: Tensor, b: Learned) -> Tensor:
    """Y[..,m,o] = sum_i a[..,m,i] b[..,i,o], batch axes broadcast."""
    return torch.matmul(a, b)


@torch_op("Einsum")
def einsum(*xs: Tensor, equation: str) -> Tensor:
    """Products summed over the letters that the result has not."""
    return torch.einsum(equation, *xs)
