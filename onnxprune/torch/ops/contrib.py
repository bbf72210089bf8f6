"""Fused operators of onnxruntime's own domain, as its optimiser writes them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..operators import Fixed, Floats, Ints, Learned, torch_op
from ..refused import MICROSOFT
from .linear import conv
from .norm import rms_norm


@torch_op("BiasGelu", domain=MICROSOFT)
def bias_gelu(x: Tensor, b: Learned) -> Tensor:
    """Y = gelu(x + b)."""
    return F.gelu(x + b)


@torch_op("FastGelu", domain=MICROSOFT)
def fast_gelu(x: Tensor, b: Learned | None = None) -> Tensor:
    """Y = gelu(x + b) by tanh."""
    return F.gelu(x if b is None else x + b, approximate="tanh")


@torch_op("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_norm(
    x: Tensor,
    skip: Tensor,
    scale: Learned,
    b: Learned | None = None,
    bias: Learned | None = None,
    *,
    epsilon: float = 1e-12,
) -> tuple[Tensor, None, None, Tensor]:
    """Y = norm(x + skip + bias) over the last axis, and (as result 3) what was normalised."""
    total = x + skip if bias is None else x + skip + bias
    return F.layer_norm(total, total.shape[-1:], scale, b, epsilon), None, None, total


@torch_op("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_rms_norm(
    x: Tensor, skip: Tensor, scale: Learned, bias: Learned | None = None, *, epsilon: float = 1e-12
) -> tuple[Tensor, None, None, Tensor]:
    """As SkipLayerNormalization, by the root mean square."""
    total = x + skip if bias is None else x + skip + bias
    return rms_norm(total, scale, epsilon=epsilon), None, None, total


@torch_op("EmbedLayerNormalization", domain=MICROSOFT, ignores=("mask_index_type",))
def embed_layer_norm(
    ids: Tensor,
    segments: Tensor | None,
    words: Learned,
    positions: Learned,
    kinds: Learned | None,
    scale: Learned,
    b: Learned,
    mask: Fixed | None = None,
    places: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
) -> tuple[Tensor, Tensor, Tensor]:
    """Y = norm(word + position + segment), how many tokens a mask leaves, and what was normalised."""
    if places is None:
        places = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
    total = F.embedding(ids, words) + F.embedding(places, positions)
    if segments is not None and kinds is not None:
        total = total + F.embedding(segments, kinds)
    count = ids.new_zeros(len(ids)) if mask is None else mask.sum(1)
    return F.layer_norm(total, total.shape[-1:], scale, b, epsilon), count.int(), total


@torch_op("FusedMatMul", domain=MICROSOFT, only={"transBatchA": (0,), "transBatchB": (0,)})
def fused_matmul(
    a: Tensor, b: Tensor, *, alpha: float = 1.0, transA: int = 0, transB: int = 0
) -> Tensor:
    """Y = alpha op(a) op(b), either operand transposed on its last two axes."""
    a, b = (a.transpose(-1, -2) if transA else a), (b.transpose(-1, -2) if transB else b)
    y = torch.matmul(a, b)
    return y if alpha == 1 else alpha * y


@torch_op("FusedConv", domain=MICROSOFT, ignores=("kernel_shape",))
def fused_conv(
    x: Tensor,
    w: Learned,
    b: Learned | None = None,
    z: Tensor | None = None,
    *,
    activation: str,
    activation_params: Floats | None = None,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """Y = f(conv(x) + z)."""
    y = conv(x, w, b, auto_pad=auto_pad, dilations=dilations, group=group, pads=pads,
             strides=strides)  # fmt: skip
    y = y if z is None else y + z
    return _ACTIVATIONS[activation](y, *(activation_params or []))


_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "LeakyRelu": F.leaky_relu,
    "Clip": torch.clamp,
    "HardSigmoid": lambda y, alpha, beta: torch.clamp(alpha * y + beta, 0, 1),
}
