"""Conv, ConvTranspose, Gemm, MatMul: what sums over channels and writes new ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.core.positions import Axis
from onnxprune.core.rules import Example, NodeView, RuleError, TensorAxes, op


def _geometry(
    n: NodeView, x: TensorAxes, w: TensorAxes, y: TensorAxes
) -> dict[str, tuple[int, ...]]:
    """Return kernel, strides, dilations and explicit pads (auto_pad resolved) of a convolution."""
    rank = x.rank - 2
    kernel = tuple(axis.size for axis in w[2:])
    strides = tuple(n.attr("strides") or [1] * rank)
    dilations = tuple(n.attr("dilations") or [1] * rank)
    pads = tuple(n.attr("pads") or [0] * (2 * rank))
    auto = n.attr("auto_pad", b"NOTSET").decode()
    if auto.startswith("SAME"):
        total = [
            max(
                0,
                (y[i + 2].size - 1) * strides[i]
                + (kernel[i] - 1) * dilations[i]
                + 1
                - x[i + 2].size,
            )
            for i in range(rank)
        ]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = tuple([*small, *large] if auto == "SAME_UPPER" else [*large, *small])
    return {"kernel": kernel, "strides": strides, "dilations": dilations, "pads": pads}


def pairs(pads: Sequence[int]) -> list[tuple[int, int]]:
    """Return (begin, end) of each axis from pads as ONNX lists them: begins, then ends."""
    half = len(pads) // 2
    return list(zip(pads[:half], pads[half:], strict=True))


def _grouped(n: NodeView, flat: Axis, groups: Axis, inner: Axis) -> None:
    """Flat = groups x inner; one group, or one channel a group, is plain coupling."""
    if groups.size == 1:
        n.couple(flat, inner)
    elif inner.size == 1:
        n.couple(flat, groups)
    else:
        n.factor(flat, groups, inner)


@op(
    "Conv",
    examples=[
        Example("{y} = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>({x}, {w:2C,C,3,3}, {b:2C})"),
        Example("{y} = Conv({x}, {w:8,C,1,1})"),
        Example("{y} = Conv<kernel_shape=[3,3], pads=[1,1,1,1], group=C>({x}, {w:C,1,3,3}, {b:C})"),
        Example("{y} = Conv<group=2>({x}, {w:12,C/2,1,1}, {b:12})", multiple=4),
        Example("{y} = Conv<group=C>({x}, {w:2C,1,1,1})"),
        Example('{y} = Conv<auto_pad="SAME_UPPER">({x}, {w:6,C,3,3}, {b:6})'),
        Example(
            "{y} = Conv<strides=[2,1], dilations=[1,2], pads=[1,2,1,2]>({x}, {w:8,C,3,3}, {b:8})"
        ),
        Example("{y} = Conv<group=C/2>({x}, {w:2C,2,1,1}, {b:2C})", multiple=4),
        Example(
            "{t1} = Transpose<perm=[0,2,1,3]>({x})\n{t2} = Conv<pads=[0,1,0,1]>({t1}, {w:6,H,1,3}, {b:6})\n"
            "{y} = Transpose<perm=[0,2,1,3]>({t2})"
        ),
    ],
)
def conv(n: NodeView) -> None:
    """y[n,o] = sum_i x[n,i] w[o,i] + b[o]; with groups x = g x i and o = g x o'."""
    x, w, y = n.x(0), n.x(1), n.y()
    convolve(n, x, w, n.x(2), y)
    n.contract(0, 1)
    n.contract(1, 1)
    same = n.attr("auto_pad", b"NOTSET").startswith(b"SAME")
    sized = all(one == other for one, other in map(n.pair, x[2:]))
    # SAME pads depend on the size of the image: without one of its own there is no fixed patch
    if w.name in n.graph.weights and (sized or not same):
        bias = n.proto.input[2] if n.has(2) else None
        n.linear(
            x=x.name,
            weight=w.name,
            bias=bias,
            y=y.name,
            x_axis=1,
            y_axis=1,
            weight_in=1,
            weight_out=0,
            groups=int(n.attr("group", 1)),
            **_geometry(n, x, w, y),
        )


def convolve(n: NodeView, x: TensorAxes, w: TensorAxes, bias: TensorAxes, y: TensorAxes) -> None:
    """Couple the operands of a convolution and count its cost; whatever its weights are made of."""
    count = int(n.attr("group", 1))
    n.couple(y[1], w[0])
    if bias:
        n.couple(bias[0], w[0])
    form = _geometry(n, x, w, y)
    sides = zip(x[2:], y[2:], form["kernel"], form["strides"], pairs(form["pads"]), strict=True)
    for before, after, kernel, stride, pad in sides:
        if (kernel, stride, pad) == (1, 1, (0, 0)):
            n.couple(before, after)  # nothing meets along it
        else:
            n.protect([before, after], "a spatial axis of a convolution")
    n.protect(w[2:], "a spatial axis of a convolution")
    n.couple(x[0], y[0])
    n.macs(y[0], w[0], w[1], *y[2:], times=int(np.prod([k.size for k in w[2:]], dtype=np.int64)))
    if count == 1:
        n.couple(x[1], w[1])
    else:
        groups = n.axis(count, "group")
        _grouped(n, x[1], groups, w[1])
        _grouped(n, w[0], groups, n.axis(w[0].size // count, "out"))
        n.attr_is_length("group", groups)


@op(
    "ConvTranspose",
    examples=[
        Example("{y} = ConvTranspose<strides=[2,2]>({x}, {w:C,6,2,2}, {b:6})"),
        Example("{y} = ConvTranspose<group=2>({x}, {w:C,3,1,1}, {b:6})", multiple=4),
        Example("{y} = ConvTranspose<group=C>({x}, {w:C,1,2,2}, {b:C})"),
    ],
)
def conv_transpose(n: NodeView) -> None:
    """y[n,o] = sum_i x[n,i] w[i,o] + b[o], spread over space; groups as in Conv."""
    x, w, y = n.x(0), n.x(1), n.y()
    count = int(n.attr("group", 1))
    n.protect([*w[2:], *x[2:], *y[2:]], "a spatial axis of a convolution")
    n.couple(x[0], y[0])
    n.couple(x[1], w[0])
    if n.has(2):
        n.couple(n.x(2)[0], y[1])
    n.macs(x[0], w[0], w[1], *x[2:], times=int(np.prod([k.size for k in w[2:]], dtype=np.int64)))
    if count == 1:
        n.couple(y[1], w[1])
    else:
        groups = n.axis(count, "group")
        _grouped(n, x[1], groups, n.axis(x[1].size // count, "in"))
        _grouped(n, y[1], groups, w[1])
        n.attr_is_length("group", groups)
    n.contract(0, 1)
    n.contract(1, 0)


@op(
    "Gemm",
    examples=[
        Example("{y} = Gemm<transB=1>({x}, {w:12,C}, {b:12})", rank=2),
        Example("{y} = Gemm({x}, {w:C,9})", rank=2),
        Example("{y} = Gemm<alpha=0.5, beta=2.0>({x}, {w:C,8}, {b:8})", rank=2),
        Example(
            "{t1} = Transpose({x})\n{y} = Gemm<transA=1, transB=1>({t1}, {w:7,C}, {b:1,7})", rank=2
        ),
        Example("{y} = Gemm({x}, {w:C,6}, {f:0.3})", rank=2),
    ],
)
def gemm(n: NodeView) -> None:
    """y[m,o] = sum_i a[m,i] b[i,o] + c[m,o], either operand transposed on request."""
    a, b, y = n.x(0), n.x(1), n.y()
    sum_a, sum_b = combine(n, a, b, y)
    if n.has(2):
        n.broadcast([n.x(2)], y)
    n.contract(0, sum_a)
    n.contract(1, sum_b)
    plain = n.attr("alpha", 1.0) == 1.0 and n.attr("beta", 1.0) == 1.0
    bias = n.x(2) if n.has(2) else None
    if b.name in n.graph.weights and plain and (bias is None or bias.rank == 1):
        n.linear(
            x=a.name,
            weight=b.name,
            bias=bias.name if bias is not None else None,
            y=y.name,
            x_axis=sum_a,
            y_axis=1,
            weight_in=sum_b,
            weight_out=1 - sum_b,
        )


def combine(n: NodeView, a: TensorAxes, b: TensorAxes, y: TensorAxes) -> tuple[int, int]:
    """Couple two matrices, transposed on request, with their product; returns the axes summed over."""
    sum_a, sum_b = (0 if n.attr("transA", 0) else 1), (1 if n.attr("transB", 0) else 0)
    n.couple(a[sum_a], b[sum_b])
    n.couple(a[1 - sum_a], y[0])
    n.couple(b[1 - sum_b], y[1])
    n.macs(y[0], y[1], b[sum_b])
    return sum_a, sum_b


@op(
    "MatMul",
    examples=[
        Example("{y} = MatMul({x}, {w:C,10})", rank=2),
        Example("{t1} = MatMul({x}, {w:C,2C})\n{y} = Add({t1}, {b:2C})", rank=3),
        Example(
            "{t1} = Transpose<perm=[0,2,1]>({x})\n{t2} = MatMul({x}, {t1})\n{y} = MatMul({t2}, {x})",
            rank=3,
        ),
        Example(
            "{t1} = MatMul({x}, {w:C})\n{t2} = Unsqueeze({t1}, {i:[2]})\n{y} = Mul({x}, {t2})",
            rank=3,
        ),
        Example(
            "{t1} = Transpose<perm=[0,2,1]>({x})\n{t2} = MatMul({w:6,C}, {t1})\n{y} = Transpose<perm=[0,2,1]>({t2})",
            rank=3,
        ),
        Example("{t1} = Transpose<perm=[0,1,3,2]>({x})\n{y} = MatMul({x}, {t1})"),
        Example(
            "{t1} = MatMul({x}, {w:C,C})\n{t2} = Reshape({t1}, {i:[0,0,2,C/2]})\n{t3} = Transpose<perm=[0,2,1,3]>({t2})\n"
            "{t4} = MatMul({x}, {w:C,C})\n{t5} = Reshape({t4}, {i:[0,0,2,C/2]})\n{t6} = Transpose<perm=[0,2,3,1]>({t5})\n"
            "{t7} = MatMul({t3}, {t6})\n{t8} = Softmax({t7})\n{t9} = MatMul({t8}, {t3})\n"
            "{t10} = Transpose<perm=[0,2,1,3]>({t9})\n{y} = Reshape({t10}, {i:[0,0,C]})",
            rank=3,
            multiple=4,
        ),
    ],
)
def matmul(n: NodeView) -> None:
    """y[..,m,o] = sum_i a[..,m,i] b[..,i,o], batch axes broadcast."""
    a, b, y = n.x(0), n.x(1), n.y()
    sum_b = multiply(n, a, b, y)
    n.contract(0, a.rank - 1)
    n.contract(1, sum_b)
    if b.name in n.graph.weights and b.rank == 2:
        n.linear(
            x=a.name,
            weight=b.name,
            bias=None,
            y=y.name,
            x_axis=a.rank - 1,
            y_axis=y.rank - 1,
            weight_in=0,
            weight_out=1,
            bias_slot=None,
        )


def multiply(n: NodeView, a: TensorAxes, b: TensorAxes, y: TensorAxes) -> int:
    """Couple two stacks of matrices with their product; returns the axis of b that is summed over.

    Raises:
        RuleError: if an operand is a scalar.
    """
    if not a or not b:
        raise RuleError("an operand is a scalar")
    sum_b = max(b.rank - 2, 0)
    n.couple(a[-1], b[sum_b])
    out = list(y)
    written = out.pop() if b.rank > 1 else None
    rows = out.pop() if a.rank > 1 else None
    if written is not None:
        n.couple(b[-1], written)
    if rows is not None:
        n.couple(a[-2], rows)
    n.broadcast([TensorAxes(a[:-2]), TensorAxes(b[:-2])], TensorAxes(out))
    n.macs(*y, a[-1])
    return sum_b
