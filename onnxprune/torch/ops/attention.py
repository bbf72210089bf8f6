"""Attention and rotary embeddings, of ONNX and of onnxruntime's own domain."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..operators import Absent, Fixed, Ints, Learned, torch_op
from ..refused import MICROSOFT

_FLAT = 3  # axes of (batch, length, heads x dimension); else (batch, heads, length, dimension)


def heads_of(x: Tensor, count: int) -> Tensor:
    """Return (batch, heads, length, dimension), from the flat form too."""
    if x.ndim != _FLAT:
        return x
    return x.reshape(*x.shape[:2], count, -1).transpose(1, 2)


def flat(x: Tensor) -> Tensor:
    """Return (batch, length, heads x dimension)."""
    return x.transpose(1, 2).flatten(2)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    *,
    scale: float | None,
    causal: bool = False,
    softcap: float = 0.0,
) -> Tensor:
    """Y = softmax(q k^T scale + bias) v per head; keys and values may serve several query heads.

    Args:
        q: queries (batch, heads, length, dimension).
        k: keys.
        v: values.
        bias: added to scores; or booleans, true where a key is seen.
        scale: of the scores, 1 / sqrt(dimension) if None.
        causal: whether no position sees later ones; queries are the last of the keys' positions.
        softcap: c of c tanh(scores / c), none if 0.
    """
    repeat = q.shape[1] // k.shape[1]
    if repeat > 1:
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    if causal and not (bias is None and not softcap and q.shape[2] == k.shape[2]):
        bias, causal = _without_later(bias, q, k), False
    if not softcap:
        return F.scaled_dot_product_attention(q, k, v, bias, is_causal=causal, scale=scale)
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        hidden = torch.finfo(q.dtype).min
        scores = scores.masked_fill(~bias, hidden) if bias.dtype == torch.bool else scores + bias
    return torch.softmax(scores, -1) @ v


def _without_later(bias: Tensor | None, q: Tensor, k: Tensor) -> Tensor:
    """Return a bias, or booleans, by which later positions are not seen."""
    seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
    seen = seen.tril(k.shape[2] - q.shape[2])
    if bias is None:
        return seen
    return bias & seen if bias.dtype == torch.bool else bias.masked_fill(~seen, -torch.inf)


@torch_op("Attention", since=23, ignores=("softmax_precision",),
          only={"qk_matmul_output_mode": (0,)})  # fmt: skip
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Fixed | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Absent = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int = 0,
    q_num_heads: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Y = softmax(Q K^T scale + mask) V per head, and keys and values with those of earlier tokens."""
    del lengths
    was_flat = q.ndim == _FLAT
    q, k, v = heads_of(q, q_num_heads), heads_of(k, kv_num_heads), heads_of(v, kv_num_heads)
    if past_key is not None and past_value is not None:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    y = attend(q, k, v, mask, scale=scale, causal=bool(is_causal), softcap=softcap)
    return flat(y) if was_flat else y, k, v


def rotated(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool, part: int) -> Tensor:
    """Turn pairs of the first `part` dimensions (all, if 0) of (batch, heads, length, dimension).

    Args:
        x: what is turned.
        cos: of the angles, (batch or 1, length, pairs).
        sin: the same.
        interleaved: whether pairs are neighbours, else half a part away.
        part: dimensions that are turned.
    """
    part = part or x.shape[-1]
    turned, rest = x[..., :part], x[..., part:]
    cos, sin = (t.unsqueeze(1)[..., : part // 2] for t in (cos, sin))
    a, b = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    pair = [a * cos - b * sin, a * sin + b * cos]
    y = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    return torch.cat([y, rest], -1) if rest.shape[-1] else y


@torch_op("RotaryEmbedding", since=23)
def rotary(
    x: Tensor,
    cos: Fixed,
    sin: Fixed,
    positions: Fixed | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """Pairs of dimensions of each head are turned by angles of their position."""
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    y = rotated(heads_of(x, num_heads), cos, sin, interleaved=bool(interleaved),
                part=rotary_embedding_dim)  # fmt: skip
    return flat(y) if x.ndim == _FLAT else y


@torch_op("RotaryEmbedding", domain=MICROSOFT, only={"is_packed_batching": (0,)})
def rotary_of_positions(
    x: Tensor,
    positions: Fixed,
    cos: Fixed,
    sin: Fixed,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
    scale: float = 1.0,
) -> Tensor:
    """As RotaryEmbedding; one position given is that of the first token."""
    length = x.shape[1] if x.ndim == _FLAT else x.shape[2]
    if positions.numel() == 1:
        positions = positions.reshape(1, 1) + torch.arange(length, device=x.device)
    count = num_heads or x.shape[-1] // (2 * cos.shape[-1])
    y = rotated(heads_of(x, count), cos[positions], sin[positions],
                interleaved=bool(interleaved), part=rotary_embedding_dim)  # fmt: skip
    return (flat(y) if x.ndim == _FLAT else y) * scale


def _padding(mask: Tensor | None, keys: int, hidden: float, like: Tensor) -> Tensor | None:
    """Return the bias that hides keys: of a mask (batch, keys), (batch, queries, keys), or lengths."""
    if mask is None:
        return None
    if mask.ndim == 1:
        mask = torch.arange(keys, device=mask.device) < mask.reshape(-1, 1)
    seen = mask.bool() if mask.ndim > 2 else mask.bool().unsqueeze(1)
    return (~seen).unsqueeze(1).to(like.dtype) * hidden


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


@torch_op(
    "Attention", domain=MICROSOFT, only={"do_rotary": (0,), "past_present_share_buffer": (0,)}
)
def packed_attention(
    x: Tensor,
    w: Learned,
    b: Learned | None = None,
    mask: Fixed | None = None,
    past: Absent = None,
    bias: Fixed | None = None,
    *,
    mask_filter_value: float = -10000.0,
    num_heads: int,
    qkv_hidden_sizes: Ints | None = None,
    scale: float = 0.0,
    unidirectional: int = 0,
) -> Tensor:
    """Q, K and V are x times parts of one weight; then as Attention."""
    del past
    made = x @ w if b is None else x @ w + b
    sizes = qkv_hidden_sizes or [w.shape[1] // 3] * 3
    q, k, v = (heads_of(part, num_heads) for part in torch.split(made, sizes, 2))
    hidden = _sum(_padding(mask, k.shape[2], mask_filter_value, q), bias)
    return flat(attend(q, k, v, hidden, scale=scale or None, causal=bool(unidirectional)))


@torch_op("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    b: Learned | None = None,
    mask: Fixed | None = None,
    bias: Fixed | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    *,
    mask_filter_value: float = -10000.0,
    num_heads: int,
    scale: float = 0.0,
    unidirectional: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """As Attention, from queries, keys and values; one bias for all three."""
    if b is not None:
        parts = torch.split(b, [q.shape[-1], k.shape[-1], v.shape[-1]])
        q, k, v = (x + part for x, part in zip((q, k, v), parts, strict=True))
    q, k, v = (heads_of(x, num_heads) for x in (q, k, v))
    if past_key is not None and past_value is not None:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    hidden = _sum(_padding(mask, k.shape[2], mask_filter_value, q), bias)
    y = attend(q, k, v, hidden, scale=scale or None, causal=bool(unidirectional))
    return flat(y), k, v


@torch_op("GroupQueryAttention", domain=MICROSOFT,
          only={"local_window_size": (-1,), "smooth_softmax": (0, -1), "qk_output": (0,)})  # fmt: skip
def group_query_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past_key: Absent = None,
    past_value: Absent = None,
    last: Fixed | None = None,
    total: Fixed | None = None,
    cos: Fixed | None = None,
    sin: Fixed | None = None,
    *,
    do_rotary: int = 0,
    kv_num_heads: int,
    num_heads: int,
    rotary_interleaved: int = 0,
    scale: float = 0.0,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Causal attention whose keys and values serve several query heads; a prompt, without a past.

    What stands behind the last token of a sample is not looked at by what stands before it.
    """
    del past_key, past_value, last, total
    q, k, v = heads_of(q, num_heads), heads_of(k, kv_num_heads), heads_of(v, kv_num_heads)
    if do_rotary and cos is not None and sin is not None:
        angles = [t[: q.shape[2]].unsqueeze(0) for t in (cos, sin)]
        q, k = (
            rotated(x, *angles, interleaved=bool(rotary_interleaved), part=2 * cos.shape[-1])
            for x in (q, k)
        )
    y = attend(q, k, v, None, scale=scale or None, causal=True, softcap=softcap)
    return flat(y), k, v
