"""Attention and rotary embeddings: heads, head dimensions of queries and keys, and of values.

Heads and head dimensions are both removable; where the file keeps them in one axis (B, L, H * D), it
is factored. With fewer key-value heads than query heads, query heads = key-value heads x repeats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxprune.core.positions import Axis
from onnxprune.core.rules import Example, NodeView, RuleError, TensorAxes, op

_RANK = (
    4  # (batch, heads, length, dimension); the flat form (batch, length, heads x dimension) has 3
)

Heads = tuple[Axis, Axis]  # heads, dimension of each


def _heads(n: NodeView, x: TensorAxes, count: int, heads: Axis | None = None) -> Heads:
    """Return the axes of heads and of their dimension, factoring a flat axis."""
    if x.rank == _RANK:
        if heads is not None:
            n.couple(heads, x[1])
        return heads or x[1], x[3]
    if not count or x[-1].size % count:
        raise RuleError(f"{x[-1].size} values are not {count} heads")
    heads = heads or n.axis(count, "heads")
    size = n.axis(x[-1].size // count, "dimension")
    n.factor(x[-1], heads, size)
    return heads, size


def _length(x: TensorAxes) -> Axis:
    return x[2] if x.rank == _RANK else x[1]


def attend(
    n: NodeView, operands: Sequence[TensorAxes], y: TensorAxes, counts: tuple[int, int]
) -> tuple[Axis, Axis, Axis, Axis]:
    """Couple q, k, v and y of any attention, and count its cost.

    Returns:
        query heads, key-value heads, and the dimension of a head of keys and of values. That queries
        and keys are summed over the former is for the caller to declare.
    """
    q, k, v = operands
    query, size = _heads(n, q, counts[0])
    key, key_size = _heads(n, k, counts[1])
    n.couple(size, key_size)
    value_size = _heads(n, v, counts[1], key)[1]
    if query.size == key.size:
        n.couple(query, key)
    else:
        n.factor(query, key, n.axis(query.size // key.size, "repeat"))
    out = _heads(n, y, query.size, query)[1]
    n.couple(out, value_size)
    n.same([q[0], k[0], v[0]], [y[0]] * 3)
    n.couple(_length(q), _length(y))
    n.couple(_length(k), _length(v))
    n.protect([_length(k)], "attention weights are normalised along it")
    n.macs(y[0], query, _length(q), _length(k), size)
    n.macs(y[0], query, _length(q), _length(k), value_size)
    return query, key, size, value_size


@op(
    "Attention",
    since=23,
    examples=[
        Example(
            "{t1} = MatMul({x}, {w:C,8})\n{t2} = MatMul({x}, {w:C,8})\n{t3} = MatMul({x}, {w:C,12})\n"
            "{y} = Attention<q_num_heads=4, kv_num_heads=4>({t1}, {t2}, {t3})",
            rank=3,
            opsets=(23,),
        ),
        Example(
            "{t1} = MatMul({x}, {w:C,16})\n{t2} = MatMul({x}, {w:C,8})\n{t3} = MatMul({x}, {w:C,8})\n"
            "{y} = Attention<q_num_heads=4, kv_num_heads=2, is_causal=1>({t1}, {t2}, {t3})",
            rank=3,
            opsets=(23,),
        ),
    ],
)
def attention(n: NodeView) -> None:
    """Y = softmax(Q K^T scale + mask) V per head; keys and values may serve several query heads."""
    q, k, y = n.x(0), n.x(1), n.y()
    counts = (int(n.attr("q_num_heads", 0)), int(n.attr("kv_num_heads", 0)))
    query, key, size, value = attend(n, [q, k, n.x(2)], y, counts)
    for slot, x in enumerate((q, k)):
        n.contract(slot, x.rank - 1)
    n.freeze_attr("scale", 1 / math.sqrt(size.size))
    for name, axis in (("q_num_heads", query), ("kv_num_heads", key)):
        if n.attr(name, 0):
            n.attr_is_length(name, axis)
    if n.has(3):
        scores = TensorAxes((y[0], query, _length(q), _length(k)))
        n.broadcast([n.x(3)], scores)
    for slot, like in ((4, k), (5, n.x(2))):
        if n.has(slot):
            n.couple(n.x(slot)[0], like[0])
            n.couple(n.x(slot)[1], key)
            n.couple(n.x(slot)[3], size if slot == 4 else value)
    for slot, head in ((1, key), (2, key), (3, query)):
        present = n.y(slot)
        if present:
            n.couple(present[1], head)
            n.protect(present, "attention hands it on")


@op(
    "RotaryEmbedding",
    since=23,
    examples=[
        Example(
            "{t1} = MatMul({x}, {w:C,16})\n"
            "{t2} = MatMul({x}, {w:C,4})\n{t3} = MatMul({x}, {w:C,4})\n"
            "{y} = RotaryEmbedding<num_heads=2>({t1}, {t2}, {t3})",
            rank=3,
            opsets=(23,),
        ),
        Example(
            "{t1} = MatMul({x}, {w:C,16})\n"
            "{t2} = MatMul({x}, {w:C,2})\n{t3} = MatMul({x}, {w:C,2})\n"
            "{y} = RotaryEmbedding<num_heads=4, interleaved=1>({t1}, {t2}, {t3})",
            rank=3,
            opsets=(23,),
        ),
    ],
)
def rotary(n: NodeView) -> None:
    """Pairs of dimensions of each head are rotated together by angles from a table."""
    x, y = n.x(0), n.y()
    n.same(x, y)
    tables = n.xs(1)[:2]
    rotate(n, x, tables, int(n.attr("num_heads", 0)))
    n.protect(_length(x), "positions are rotated by their number")
    for table in tables:
        if table.rank == x.rank - (x.rank == _RANK):  # angles of each sample, not of each position
            n.couple(table[0], x[0])


def rotate(n: NodeView, x: TensorAxes, tables: Sequence[TensorAxes], count: int) -> None:
    """Couple both members of each rotated pair with their column of the angle tables."""
    heads, size = _heads(n, x, count)
    part = int(n.attr("rotary_embedding_dim", 0)) or size.size
    half, step = part // 2, 2 if n.attr("interleaved", 0) else 1
    first = size.at(slice(0, part, 2) if step == 2 else slice(0, half))
    second = size.at(slice(1, part, 2) if step == 2 else slice(half, part))
    n.couple(first, second)
    for table in tables:
        n.couple(table[-1], first)
        n.protect(table[:-1], "looked up by position")
    if n.attr("rotary_embedding_dim", 0):
        rotated = n.axis(part, "rotated")
        n.couple(rotated, size.at(slice(0, part)))
        n.attr_is_length("rotary_embedding_dim", rotated)
    if n.attr("num_heads", 0):
        n.attr_is_length("num_heads", heads)
