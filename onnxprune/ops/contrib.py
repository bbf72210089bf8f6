"""Fused ops of onnxruntime's own domain, as its optimiser and converters write them."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import NodeProto

from onnxprune.core.input_shapes import Shape
from onnxprune.core.rules import OP_RULES, Example, NodeView, TensorAxes, op
from onnxprune.core.typed_shape import TypedShape

from .linear import conv

MICROSOFT = "com.microsoft"


def like_first(node: NodeProto, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """Output shape = shape of input 0."""
    return {node.output[0]: shapes[node.input[0]]}


for _op_type in ("BiasGelu", "FastGelu", "QuickGelu", "Gelu"):
    OP_RULES.shape(_op_type, MICROSOFT)(like_first)


@op(
    "BiasGelu", "FastGelu", "QuickGelu", "Gelu",
    domain=MICROSOFT,
    examples=[
        Example("{y} = com.microsoft.BiasGelu({x}, {b:C})", rank=3),
        Example("{y} = com.microsoft.FastGelu({x}, {b:C})", rank=3),
        Example("{y} = com.microsoft.QuickGelu<alpha=1.7>({x})", rank=3),
        Example("{y} = com.microsoft.Gelu({x})", rank=3),
    ],
)  # fmt: skip
def biased_activation(n: NodeView) -> None:
    """Y[i] = f(x[i] + b[i]): every axis passes through, the bias follows the last."""
    n.broadcast(n.xs(), n.y())


@op(
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    domain=MICROSOFT,
    examples=[
        Example("{y} = com.microsoft.SkipLayerNormalization({x}, {x2}, {s:C}, {b:C}, {b:C})", 3),
        Example(
            "{y} = com.microsoft.SkipSimplifiedLayerNormalization<epsilon=0.1>({x}, {x2}, {s:C})", 3
        ),
    ],
)
def skip_norm(n: NodeView) -> None:
    """Y = norm(x + skip + bias) over the last axis: removal there renormalises."""
    x, y = n.x(0), n.y()
    n.broadcast(n.xs(), y)
    for extra in n.ys()[1:]:
        n.broadcast([extra], y)
    epsilon = n.attr("epsilon", 1e-12)
    if n.proto.op_type.startswith("SkipSimplified"):
        n.renorm(0, [x.rank - 1], "rms", added=(1, 3), affine=(2,), epsilon=epsilon)
    else:
        n.renorm(0, [x.rank - 1], "layer", added=(1, 4), affine=(2, 3), epsilon=epsilon)


@OP_RULES.shape("SkipLayerNormalization", MICROSOFT)
@OP_RULES.shape("SkipSimplifiedLayerNormalization", MICROSOFT)
def skip_norm_shape(node: NodeProto, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """The result and the sum that is handed on are like input 0."""
    return {name: shapes[node.input[0]] for name in [node.output[0], *node.output[3:]] if name}


@op(
    "EmbedLayerNormalization",
    domain=MICROSOFT,
    examples=[
        Example(
            "{t1} = ArgMax<axis=-1, keepdims=0>({x})\n{t2} = Cast<to=6>({t1})\n"
            "{y}, {t3} = com.microsoft.EmbedLayerNormalization<epsilon=0.1>"
            "({t2}, {t2}, {w:40,12}, {w:16,12}, {w:40,12}, {s:12}, {b:12})",
            rank=3,
        ),
    ],
)
def embed_norm(n: NodeView) -> None:
    """Y = norm(word[id] + position[i] + segment[id]), and how many tokens a mask leaves."""
    ids, words, y = n.x(0), n.x(2), n.y()
    n.same(ids, y[:2])
    for table in (words, n.x(3), n.x(4)):
        if table:
            n.couple(table[1], y[2])
            n.protect(table[0], "looked up by index")
    for vector in (n.x(5), n.x(6)):
        n.couple(vector[0], y[2])
    for extra in (n.x(1), n.x(7), n.x(8), n.y(1)):
        n.protect(extra, "indices and masks of positions")
        for a, b in zip(extra, ids, strict=False):
            if n.pair(a) == n.pair(b):
                n.couple(a, b)
    if n.y(2):
        n.same(n.y(2), y)
    n.renorm(2, [2], "layer", affine=(5, 6), epsilon=n.attr("epsilon", 1e-12), of=2)


@OP_RULES.shape("EmbedLayerNormalization", MICROSOFT)
def embed_norm_shape(node: NodeProto, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """Shape of the indices, width of the table; one number a sample; the sum before the norm."""
    ids, width = shapes[node.input[0]], shapes[node.input[2]][1]
    wide = TypedShape.of((*ids, width), node.input[2])
    each: tuple[Shape, ...] = (wide, ids[:1], wide)
    return {name: shape for name, shape in zip(node.output, each, strict=False) if name}


@op(
    "FusedMatMul",
    domain=MICROSOFT,
    examples=[
        Example("{y} = com.microsoft.FusedMatMul<alpha=0.5>({x}, {w:C,8})", rank=3),
        Example("{y} = com.microsoft.FusedMatMul<transB=1>({x}, {w:8,C})", rank=2),
    ],
)
def fused_matmul(n: NodeView) -> None:
    """Y = alpha op(a) op(b), either operand transposed on its last two axes."""
    if n.attr("transBatchA", 0) or n.attr("transBatchB", 0):
        n.refuse("batches are transposed")
    a, b, y = n.x(0), n.x(1), n.y()
    sum_a = a.rank - (2 if n.attr("transA", 0) else 1)
    sum_b = b.rank - (1 if n.attr("transB", 0) else 2)
    n.couple(a[sum_a], b[sum_b])
    n.couple(a[2 * a.rank - 3 - sum_a], y[-2])
    n.couple(b[2 * b.rank - 3 - sum_b], y[-1])
    batch = TensorAxes(y[:-2])
    n.broadcast([TensorAxes(a[:-2]), TensorAxes(b[:-2])], batch)
    n.contract(0, sum_a)
    n.contract(1, sum_b)
    n.macs(*y, a[sum_a])


@OP_RULES.shape("FusedMatMul", MICROSOFT)
def fused_matmul_shape(node: NodeProto, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """Rows of a, columns of b, batches broadcast."""
    transposed = {a.name: a.i for a in node.attribute}
    a, b = shapes[node.input[0]], shapes[node.input[1]]
    rows = a[-1] if transposed.get("transA") else a[-2]
    columns = b[-2] if transposed.get("transB") else b[-1]
    batch = a[:-2] if len(a) >= len(b) else b[:-2]
    return {node.output[0]: (*batch, rows, columns)}


@op(
    "FusedConv",
    domain=MICROSOFT,
    examples=[
        Example(
            '{y} = com.microsoft.FusedConv<activation="Relu", kernel_shape=[3,3], pads=[1,1,1,1]>'
            "({x}, {w:6,C,3,3}, {b:6})"
        ),
        Example('{y} = com.microsoft.FusedConv<activation="Relu">({x}, {w:C,C,1,1}, {b:C}, {x2})'),
    ],
)
def fused_conv(n: NodeView) -> None:
    """Y = f(conv(x) + z): as Conv; the added tensor is the output's size; not refitted behind f."""
    conv(n)
    n.record.linear = None
    if n.has(3):
        n.same(n.x(3), n.y())


@OP_RULES.shape("FusedConv", MICROSOFT)
def fused_conv_shape(node: NodeProto, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """Output shape of a convolution, from its attributes."""
    given = {a.name: list(a.ints) for a in node.attribute if a.ints}
    x, w = shapes[node.input[0]], shapes[node.input[1]]
    rank = len(x) - 2
    strides, dilations = given.get("strides", [1] * rank), given.get("dilations", [1] * rank)
    pads = given.get("pads", [0] * 2 * rank)
    auto = next((a.s for a in node.attribute if a.name == "auto_pad"), b"NOTSET")
    if auto.startswith(b"SAME"):
        size = tuple(-(-x[i + 2] // strides[i]) for i in range(rank))
    else:
        size = tuple(
            (x[i + 2] + pads[i] + pads[i + rank] - dilations[i] * (w[i + 2] - 1) - 1) // strides[i]
            + 1
            for i in range(rank)
        )
    return {node.output[0]: (x[0], w[0], *size)}
