"""Products of integers: as floats between dequantised operands, rounded as the file rounds them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..operators import Fixed, Ints, Learned, torch_op
from ..refused import MICROSOFT
from .linear import conv
from .pool import average_pool, global_average_pool
from .quant import dequantize, dynamic_quantize, quantize

Zero = Fixed  # a zero point


def _centred(x: Tensor, zero: Tensor | None, axis: int = -1) -> Tensor:
    """Return x - zero, in floats; a vector of zero points lies along an axis."""
    one = torch.ones((), device=x.device)
    return dequantize(x, one, zero, axis=axis)


@torch_op("ConvInteger", ignores=("kernel_shape",))
def conv_integer(
    x: Tensor,
    w: Fixed,
    x_zero: Zero | None = None,
    w_zero: Zero | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """As Conv on x - zero point and w - zero point."""
    return conv(_centred(x, x_zero), _centred(w, w_zero, 0), None, auto_pad=auto_pad,
                dilations=dilations, group=group, pads=pads, strides=strides)  # fmt: skip


@torch_op("MatMulInteger")
def matmul_integer(
    a: Tensor, b: Fixed, a_zero: Zero | None = None, b_zero: Zero | None = None
) -> Tensor:
    """As MatMul on a - zero point and b - zero point."""
    return torch.matmul(_centred(a, a_zero, -2), _centred(b, b_zero))


@torch_op("QLinearConv", ignores=("kernel_shape",))
def qlinear_conv(
    x: Tensor,
    x_scale: Fixed,
    x_zero: Zero,
    w: Fixed,
    w_scale: Fixed,
    w_zero: Zero,
    y_scale: Fixed,
    y_zero: Zero,
    b: Fixed | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """As Conv on (x - zero point) scale, rounded to the output's steps."""
    bias = None if b is None else b * (x_scale * w_scale)
    y = conv(dequantize(x, x_scale, x_zero), dequantize(w, w_scale, w_zero, axis=0), bias,
             auto_pad=auto_pad, dilations=dilations, group=group, pads=pads,
             strides=strides)  # fmt: skip
    return quantize(y, y_scale, y_zero)


@torch_op("QLinearMatMul")
def qlinear_matmul(
    a: Tensor, a_scale: Fixed, a_zero: Zero, b: Tensor, b_scale: Fixed, b_zero: Zero,
    y_scale: Fixed, y_zero: Zero,
) -> Tensor:  # fmt: skip
    """As MatMul on (a - zero point) scale, rounded to the output's steps."""
    left = dequantize(a, a_scale, a_zero, axis=-2)
    y = torch.matmul(left, dequantize(b, b_scale, b_zero, axis=-1))
    return quantize(y, y_scale, y_zero)


@torch_op("MatMulIntegerToFloat", domain=MICROSOFT)
def matmul_integer_to_float(
    a: Tensor, b: Fixed, a_scale: Fixed, b_scale: Fixed, a_zero: Zero | None = None,
    b_zero: Zero | None = None, bias: Learned | None = None,
) -> Tensor:  # fmt: skip
    """As MatMul on (a - zero point) scale, with a bias."""
    left = dequantize(a, a_scale, a_zero, axis=-2)
    y = torch.matmul(left, dequantize(b, b_scale, b_zero, axis=-1))
    return y if bias is None else y + bias


@torch_op("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_quantize_matmul(
    a: Tensor, b: Fixed, b_scale: Fixed, b_zero: Zero | None = None, bias: Learned | None = None
) -> Tensor:
    """DynamicQuantizeLinear, then MatMulIntegerToFloat."""
    return matmul_integer_to_float(*_dynamic(a, b, b_scale, b_zero), bias)


def _dynamic(
    a: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    y, scale, zero = dynamic_quantize(a)
    return y, b, scale, b_scale, zero, b_zero


@torch_op("QGemm", domain=MICROSOFT)
def qgemm(
    a: Tensor, a_scale: Fixed, a_zero: Zero, b: Fixed, b_scale: Fixed, b_zero: Zero,
    c: Fixed | None = None, y_scale: Fixed | None = None, y_zero: Zero | None = None,
    *, alpha: float = 1.0, transA: int = 0, transB: int = 0,
) -> Tensor:  # fmt: skip
    """As Gemm on (a - zero point) scale; rounded to the output's steps if it has any."""
    left = dequantize(a, a_scale, a_zero)
    right = dequantize(b, b_scale, b_zero, axis=0 if transB else 1)
    left, right = left.t() if transA else left, right.t() if transB else right
    y = alpha * torch.mm(left, right)
    y = y if c is None else y + c * (alpha * a_scale * b_scale)
    return y if y_scale is None else quantize(y, y_scale, y_zero)


@torch_op("QLinearAdd", domain=MICROSOFT)
def qlinear_add(
    a: Tensor, a_scale: Fixed, a_zero: Zero, b: Tensor, b_scale: Fixed, b_zero: Zero,
    y_scale: Fixed, y_zero: Zero | None = None,
) -> Tensor:  # fmt: skip
    """Y = a + b, rounded to the output's steps."""
    y = dequantize(a, a_scale, a_zero) + dequantize(b, b_scale, b_zero)
    return quantize(y, y_scale, y_zero)


@torch_op("QLinearMul", domain=MICROSOFT)
def qlinear_mul(
    a: Tensor, a_scale: Fixed, a_zero: Zero, b: Tensor, b_scale: Fixed, b_zero: Zero,
    y_scale: Fixed, y_zero: Zero | None = None,
) -> Tensor:  # fmt: skip
    """Y = a b, rounded to the output's steps."""
    y = dequantize(a, a_scale, a_zero) * dequantize(b, b_scale, b_zero)
    return quantize(y, y_scale, y_zero)


@torch_op("QLinearSigmoid", domain=MICROSOFT)
def qlinear_sigmoid(
    x: Tensor, x_scale: Fixed, x_zero: Zero, y_scale: Fixed, y_zero: Zero | None = None
) -> Tensor:
    """Y = sigmoid(x), rounded to the output's steps."""
    return quantize(torch.sigmoid(dequantize(x, x_scale, x_zero)), y_scale, y_zero)


@torch_op("QLinearLeakyRelu", domain=MICROSOFT)
def qlinear_leaky_relu(
    x: Tensor, x_scale: Fixed, x_zero: Zero, y_scale: Fixed, y_zero: Zero | None = None,
    *, alpha: float = 0.01,
) -> Tensor:  # fmt: skip
    """Y = x where positive, alpha x elsewhere, rounded to the output's steps."""
    y = torch.nn.functional.leaky_relu(dequantize(x, x_scale, x_zero), alpha)
    return quantize(y, y_scale, y_zero)


@torch_op("QLinearAveragePool", domain=MICROSOFT, only={"channels_last": (0,)})
def qlinear_average_pool(
    x: Tensor, x_scale: Fixed, x_zero: Zero, y_scale: Fixed, y_zero: Zero | None = None,
    *, kernel_shape: Ints, auto_pad: str = "NOTSET", ceil_mode: int = 0,
    count_include_pad: int = 0, pads: Ints | None = None, strides: Ints | None = None,
) -> Tensor:  # fmt: skip
    """Y is the mean of each window, rounded to the output's steps."""
    y = average_pool(dequantize(x, x_scale, x_zero), kernel_shape=kernel_shape, auto_pad=auto_pad,
                     ceil_mode=ceil_mode, count_include_pad=count_include_pad, pads=pads,
                     strides=strides)  # fmt: skip
    return quantize(y, y_scale, y_zero)


@torch_op("QLinearGlobalAveragePool", domain=MICROSOFT, only={"channels_last": (0,)})
def qlinear_global_average_pool(
    x: Tensor, x_scale: Fixed, x_zero: Zero, y_scale: Fixed, y_zero: Zero | None = None
) -> Tensor:
    """Y is the mean over space, rounded to the output's steps."""
    y = global_average_pool(dequantize(x, x_scale, x_zero))
    return quantize(y, y_scale, y_zero)


@torch_op("QLinearConcat", domain=MICROSOFT)
def qlinear_concat(y_scale: Fixed, y_zero: Zero, *xs: Fixed, axis: int) -> Tensor:
    """Y is the operands one after the other, each brought to the output's steps."""
    triples = zip(xs[::3], xs[1::3], xs[2::3], strict=True)
    y = torch.cat([dequantize(x, scale, zero) for x, scale, zero in triples], axis)
    return quantize(y, y_scale, y_zero)
