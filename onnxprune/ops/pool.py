"""Pooling, reductions and resizing: space is worked on, channels pass through."""

from __future__ import annotations

from typing import Literal

from onnxprune.core.rules import Example, NodeView, op


@op(
    "MaxPool",
    "AveragePool",
    "LpPool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GlobalLpPool",
    examples=[
        Example("{y} = MaxPool<kernel_shape=[2,2], strides=[1,1]>({x})"),
        Example("{y} = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>({x})"),
        Example("{t1} = GlobalMaxPool({x})\n{y} = Add({x}, {t1})"),
        Example("{y} = GlobalAveragePool({x})"),
        Example("{y} = LpPool<kernel_shape=[2,2]>({x})"),
        Example("{t1} = GlobalLpPool({x})\n{y} = Mul({x}, {t1})"),
        Example(
            "{t1} = Unsqueeze({x}, {i:[1]})\n{t2} = MaxPool<kernel_shape=[2,1], pads=[1,0,0,0]>({t1})\n"
            "{y} = Squeeze({t2}, {i:[1]})",
            rank=3,
        ),
        Example(
            "{t1} = Transpose<perm=[0,2,3,1]>({x})\n"
            "{t2} = AveragePool<kernel_shape=[3,1], strides=[2,1]>({t1})\n"
            "{y} = Transpose<perm=[0,3,1,2]>({t2})"
        ),
    ],
)
def pool(n: NodeView) -> None:
    """y[n,c] pools x[n,c] over space, which stays where positions meet."""
    x, space = n.x(0), n.x(0).rank - 2
    kernel = n.attr("kernel_shape") or [0] * space  # of a global pooling: all of it
    steps, pads = n.attr("strides") or [1] * space, n.attr("pads") or [0] * 2 * space
    apart = n.attr("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    for y in n.ys():
        n.same(x[:2], y[:2])
        for i, (a, b) in enumerate(zip(x[2:], y[2:], strict=True)):
            if apart and (kernel[i], steps[i], pads[i], pads[i + space]) == (1, 1, 0, 0):
                n.couple(a, b)
            else:
                n.protect([a, b], "a spatial axis of a pooling")


_STATISTICS: dict[str, Literal["mean", "max", "min"]] = {
    "ReduceMean": "mean",
    "ReduceMax": "max",
    "ReduceLogSumExp": "max",  # what is minus infinity adds nothing to it either
    "ReduceMin": "min",
}


@op(
    "ReduceMean",
    "ReduceSum",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ArgMax",
    "ArgMin",
    examples=[
        Example("{y} = ReduceMean<keepdims=0>({x}, {i:[2,3]})"),
        Example("{y} = ReduceSum<keepdims=1>({x}, {i:[2]})"),
        Example("{t1} = ReduceMean<keepdims=1>({x}, {i:[1]})\n{y} = Add({x}, {t1})"),
        Example("{t1} = ReduceSum<keepdims=1>({x}, {i:[-1]})\n{y} = Mul({x}, {t1})", rank=3),
        Example("{t1} = ReduceMax<keepdims=1>({x}, {i:[1]})\n{y} = Mul({x2}, {t1})"),
        Example("{y} = ReduceMax<keepdims=0>({x}, {i:[2,3]})"),
        Example("{t1} = ReduceMin<keepdims=1>({x}, {i:[1]})\n{y} = Add({x2}, {t1})"),
        Example("{t1} = ReduceLogSumExp<keepdims=1>({x}, {i:[1]})\n{y} = Sub({x}, {t1})"),
        Example(
            "{t3} = Softplus({x})\n{t4} = Neg({t3})\n{t1} = ReduceMax<keepdims=0>({t4}, {i:[1,2]})\n"
            "{t2} = Unsqueeze({t1}, {i:[1,2]})\n{y} = Sub({x}, {t2})"
        ),
        Example("{y} = ReduceMean<keepdims=0>({x}, {i:[1]})", rank=3),
        Example("{t1} = ReduceMean<keepdims=1>({x}, {i:[-1]})\n{y} = Sub({x}, {t1})", rank=3),
        Example("{t1} = ReduceMean<keepdims=1>({x}, {i:[1]})\n{y} = Mul({x}, {t1})", rank=2),
        Example("{t1} = ReduceMean({x}, {i:[1,2,3]})\n{y} = Add({x}, {t1})"),
        Example("{y} = ReduceMin<keepdims=1>({x}, {i:[3]})"),
        Example("{t1} = Tanh({x})\n{y} = ReduceProd<keepdims=1>({t1}, {i:[2]})"),
        Example("{t1} = ReduceL1({x}, {i:[1]})\n{y} = Mul({x}, {t1})"),
        Example("{t1} = ReduceL2({x}, {i:[1]})\n{y} = Mul({x}, {t1})"),
        Example("{t1} = ReduceSumSquare({x}, {i:[1]})\n{y} = Add({x}, {t1})"),
        Example("{t1} = Exp({x})\n{y} = ReduceLogSum({t1}, {i:[2]})"),
        Example("{y} = ReduceLogSumExp({x}, {i:[2,3]})"),
        Example("{t1} = ArgMax<axis=2>({x})\n{t2} = Cast<to=1>({t1})\n{y} = Add({x}, {t2})"),
        Example("{t1} = ArgMin<axis=3>({x})\n{t2} = Cast<to=1>({t1})\n{y} = Add({x}, {t2})"),
    ],
)
def reduce(n: NodeView) -> None:
    """Y sums (contract), averages or finds extremes (renormalise) along the reduced axes."""
    x, y, kind = n.x(0), n.y(), n.proto.op_type
    given = n.attr_or_input("axis" if kind.startswith("Arg") else "axes", 1)
    if given is None and kind.startswith("Arg"):
        given = [0]
    if not given and n.attr("noop_with_empty_axes", 0):
        n.same(x, y)
        return
    axes = sorted(a % x.rank for a in given) if given else list(range(x.rank))
    kept = [i for i in range(x.rank) if i not in axes]
    n.same([x[i] for i in kept], [y[i] for i in kept] if n.attr("keepdims", 1) else list(y))
    if (form := _STATISTICS.get(kind)) and n.is_float(0):
        n.renorm(0, axes, form)
    elif kind in {"ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"}:
        for axis in axes:
            n.contract(0, axis)
    else:
        n.protect([x[i] for i in axes])


@op(
    "Resize",
    "Upsample",
    examples=[
        Example('{y} = Resize<mode="nearest">({x}, , {f:[1.0,1.0,2.0,2.0]})'),
        Example('{y} = Resize<mode="linear", axes=[1,2,3]>({x}, , , {i:[C,10,6]})'),
        Example('{y} = Upsample<mode="nearest">({x}, {f:[1.0,1.0,2.0,2.0]})', opsets=(9,)),
    ],
)
def resize(n: NodeView) -> None:
    """y[n,c] resamples x[n,c] over space, which stays; a sizes operand is a shape."""
    x, y = n.x(0), n.y()
    for a, b in zip(x, y, strict=True):
        if n.pair(a) == n.pair(b):
            n.couple(a, b)
        else:
            n.protect([a, b], "a resized axis")
    n.protect([*x[2:], *y[2:]], "a spatial axis of a resize")
    if n.has(3):
        axes = n.attr("axes")
        n.input_is_shape(3, [y[i] for i in axes] if axes else list(y))
