"""Attention and rotary embeddings of onnxruntime's own domain: one node from projections to heads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onnx import NodeProto

from onnxprune.core.input_shapes import Shape
from onnxprune.core.positions import Axis
from onnxprune.core.rules import OP_RULES, Example, NodeView, TensorAxes, op

from .attention import attend, rotate
from .contrib import MICROSOFT, like_first

_FLAT = 3  # (batch, length, heads x dimension)


def _attributes(node: NodeProto) -> Mapping[str, int]:
    return {a.name: a.i for a in node.attribute}


def _parts(n: NodeView, axes: Sequence[Axis], sizes: Sequence[int]) -> list[Axis]:
    """Return queries, keys and values as axes of their own, the parts of each of `axes`."""
    parts, start = [], 0
    for size, label in zip(sizes, ("queries", "keys", "values"), strict=True):
        parts.append(n.axis(size, label))
        for axis in axes:
            n.couple(axis.at(slice(start, start + size)), parts[-1])
        start += size
    return parts


def _bias(n: NodeView, slot: int, y: TensorAxes, heads: Axis, keys: Axis) -> None:
    """Couple what is added to the scores, (batch, heads, queries, keys) or broadcast to it."""
    if n.has(slot):
        n.broadcast([n.x(slot)], TensorAxes((y[0], heads, y[1], keys)))


def _cache(
    n: NodeView, pairs: Sequence[tuple[TensorAxes, Axis]], y: TensorAxes, heads: Axis
) -> None:
    """Couple keys or values of earlier tokens, (batch, heads, length, dimension), in and out."""
    for cache, size in pairs:
        if cache:
            n.couple(cache[0], y[0])
            n.couple(cache[1], heads)
            n.couple(cache[3], size)
            n.protect(cache[2], "earlier tokens")


@op(
    "Attention",
    domain=MICROSOFT,
    examples=[
        Example(
            "{y} = com.microsoft.Attention<num_heads=2>({x}, {w:C,24}, {b:24})", rank=3
        ),
        Example(
            "{y} = com.microsoft.Attention<num_heads=4, qkv_hidden_sizes=[16,16,8], unidirectional=1>"
            "({x}, {w:C,40}, {b:40})",
            rank=3,
        ),
    ],
)  # fmt: skip
def attention(n: NodeView) -> None:
    """Y = softmax(Q K^T scale + mask) V per head, with Q, K and V = x times parts of one weight."""
    x, w, y, count = n.x(0), n.x(1), n.y(), int(n.attr("num_heads"))
    sizes = n.attr("qkv_hidden_sizes") or [w[1].size // 3] * 3
    flat = _parts(n, [w[1], *(n.x(2) if n.has(2) else ())], sizes)
    made = [TensorAxes((x[0], x[1], axis)) for axis in flat]
    heads, _, size, value = attend(n, made, y, (count, count))
    n.couple(x[2], w[0])
    n.contract(0, 2)
    n.contract(1, 0)
    for slot in (1, 2) if n.has(2) else (1,):
        n.contract(slot, 2 - slot, inside=True)  # queries and keys are summed over within heads
    n.macs(x[0], x[1], w[0], w[1])
    n.protect(n.x(3), "a mask of positions")
    _bias(n, 5, y, heads, x[1])
    if n.has(4) or len(n.ys()) > 1 or n.attr("do_rotary", 0):
        stay = [heads, size, value, *n.x(4), *(a for z in n.ys()[1:] for a in z)]
        n.protect(stay, "keys and values of earlier tokens are in one tensor, or are rotated")
    n.attr_is_length("num_heads", heads)
    n.lists_lengths("qkv_hidden_sizes", None, flat)
    n.freeze_attr("scale", 1 / math.sqrt(size.size))


@OP_RULES.shape("Attention", MICROSOFT)
def attention_shape(node: NodeProto, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """Length of the input, width of the values; with a past both of them in one tensor."""
    x, weight = shapes[node.input[0]], shapes[node.input[1]]
    sizes = next((a.ints for a in node.attribute if a.name == "qkv_hidden_sizes"), None)
    width = sizes[2] if sizes else weight[1] // 3
    found: dict[str, Shape] = {node.output[0]: (*x[:2], width)}
    if len(node.output) > 1 and node.output[1]:
        heads = _attributes(node)["num_heads"]
        past = shapes[node.input[4]][3] if len(node.input) > 4 and node.input[4] else 0
        found[node.output[1]] = (2, x[0], heads, past + x[1], width // heads)
    return found


@op(
    "MultiHeadAttention",
    domain=MICROSOFT,
    examples=[
        Example(
            "{t1} = MatMul({x}, {w:C,16})\n{t2} = MatMul({x}, {w:C,16})\n{t3} = MatMul({x}, {w:C,32})\n"
            "{y} = com.microsoft.MultiHeadAttention<num_heads=4>({t1}, {t2}, {t3})",
            rank=3,
        ),
        Example(
            "{t1} = MatMul({x}, {w:C,16})\n{t2} = MatMul({x}, {w:C,16})\n{t3} = MatMul({x}, {w:C,24})\n"
            "{y} = com.microsoft.MultiHeadAttention<num_heads=4>({t1}, {t2}, {t3}, {b:56})",
            rank=3,
        ),
    ],
)
def multi_head_attention(n: NodeView) -> None:
    """As Attention, from queries, keys and values; one bias for all three, masks, and a past."""
    q, k, v, y = n.x(0), n.x(1), n.x(2), n.y()
    if not k or not v or q.rank != _FLAT:
        n.refuse("queries, keys and values are packed in one tensor")
    count = int(n.attr("num_heads"))
    heads, _, size, value = attend(n, [q, k, v], y, (count, count))
    n.contract(0, 2)
    n.contract(1, k.rank - 1)
    if n.has(3):
        if {k.rank, v.rank} != {_FLAT}:
            n.refuse("a bias on keys or values with an axis of heads")
        for axis, part in zip((q, k, v), _parts(n, n.x(3), [q[2].size, k[2].size, v[2].size]),
                              strict=True):  # fmt: skip
            n.couple(axis[2], part)
        n.contract(3, 0, inside=True)
    n.protect(n.x(4), "a mask of positions")
    _bias(n, 5, y, heads, k[-2] if k.rank > _FLAT else k[1])
    _cache(n, [(n.x(6), size), (n.x(7), value), (n.y(1), size), (n.y(2), value)], y, heads)
    n.attr_is_length("num_heads", heads)
    n.freeze_attr("scale", 1 / math.sqrt(size.size))


@OP_RULES.shape("MultiHeadAttention", MICROSOFT)
def multi_head_attention_shape(node: NodeProto, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """Length of the queries, width of the values; keys and values behind those of earlier tokens."""
    query, value = shapes[node.input[0]], shapes[node.input[min(2, len(node.input) - 1)]]
    heads = _attributes(node)["num_heads"]
    width = value[-1] if len(value) == _FLAT else value[1] * value[3]
    found: dict[str, Shape] = {node.output[0]: (*query[:2], width)}
    for slot, name in enumerate(node.output[1:3], 1):
        given = shapes[node.input[slot]]
        past = shapes[node.input[5 + slot]][2] if len(node.input) > 5 + slot else 0
        if name and len(given) == _FLAT:
            found[name] = (given[0], heads, past + given[1], given[2] // heads)
    return found


@op(
    "GroupQueryAttention",
    domain=MICROSOFT,
    examples=[
        Example(
            "{t1} = MatMul({x}, {w:C,32})\n{t2} = MatMul({x}, {w:C,16})\n{t3} = MatMul({x}, {w:C,16})\n"
            "{t4} = Shape({x})\n{t5} = Gather({t4}, {i:1})\n{t6} = Cast<to=6>({t5})\n"
            "{t7} = Slice({t4}, {i:[0]}, {i:[1]})\n{t8} = Sub({t5}, {i:1})\n{t9} = Cast<to=6>({t8})\n"
            "{t10} = Expand({t9}, {t7})\n"
            "{y}, {t11}, {t12} = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2>"
            "({t1}, {t2}, {t3}, , , {t10}, {t6})",
            rank=3,
        ),
    ],
)
def group_query_attention(n: NodeView) -> None:
    """Causal attention whose keys and values serve several query heads; dimensions come in eights."""
    q, k, v, y = n.x(0), n.x(1), n.x(2), n.y()
    if not k or not v:
        n.refuse("queries, keys and values are packed in one tensor")
    counts = int(n.attr("num_heads")), int(n.attr("kv_num_heads"))
    heads, key, size, value = attend(n, [q, k, v], y, counts)
    n.contract(0, 2)
    n.contract(1, 2)
    n.protect([size, value], "GroupQueryAttention takes dimensions by the eight")
    n.protect([a for slot in range(5, 10) for a in n.x(slot)], "a length or a table of positions")
    n.same(n.x(5), y[: n.x(5).rank])  # one length a sample
    if not n.has(3):
        n.couple(q[1], k[1])
    _cache(n, [(n.x(3), size), (n.x(4), value), (n.y(1), size), (n.y(2), value)], y, key)
    n.attr_is_length("num_heads", heads)
    n.attr_is_length("kv_num_heads", key)


@OP_RULES.shape("GroupQueryAttention", MICROSOFT)
def group_query_shape(node: NodeProto, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """Shape of the queries; keys and values behind those of earlier tokens."""
    found: dict[str, Shape] = {node.output[0]: shapes[node.input[0]]}
    heads = _attributes(node)["kv_num_heads"]
    for slot, name in enumerate(node.output[1:3], 1):
        given = shapes.get(node.input[slot])
        past = shapes[node.input[2 + slot]][2] if node.input[2 + slot] else 0
        if name and given:
            found[name] = (given[0], heads, past + given[1], given[2] // heads)
    return found


@op(
    "RotaryEmbedding",
    domain=MICROSOFT,
    examples=[
        Example(
            "{t1} = MatMul({x}, {w:C,16})\n"
            "{y} = com.microsoft.RotaryEmbedding<num_heads=2>({t1}, {i:[0]}, {w:16,4}, {w:16,4})",
            rank=3,
        ),
    ],
)
def rotary(n: NodeView) -> None:
    """As RotaryEmbedding of ONNX, with the positions before the tables; heads need their number."""
    x = n.x(0)
    count = int(n.attr("num_heads", 0)) or x[-1].size // (2 * n.x(2)[-1].size)
    n.same(x, n.y())
    n.protect(n.x(1), "positions")
    rotate(n, x, [n.x(2), n.x(3)], count)
    n.protect(x[1] if x.rank == _FLAT else x[2], "positions are rotated by their number")


OP_RULES.shape("RotaryEmbedding", MICROSOFT)(like_first)
