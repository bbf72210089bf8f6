"""Concat, Split, Slice, Gather, Pad: positions are joined, picked or added."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.core.rules import Example, NodeView, RuleError, TensorAxes, op


@op(
    "Concat",
    examples=[
        Example("{y} = Concat<axis=1>({x}, {x2})"),
        Example("{y} = Concat<axis=-1>({x}, {x2}, {x})", rank=3),
        Example("{y} = Concat<axis=2>({x}, {x2})"),
        Example("{y} = Concat<axis=-1>({x}, {x2})", rank=2),
    ],
)
def concat(n: NodeView) -> None:
    """Y is the operands one after the other along one axis; the other axes are the same."""
    join(n, n.xs())


def join(n: NodeView, operands: Sequence[TensorAxes]) -> None:
    """Couple operands with their part of the output along attribute `axis`."""
    y = n.y()
    axis, start = int(n.attr("axis")) % y.rank, 0
    for x in operands:
        for i, (a, b) in enumerate(zip(x, y, strict=True)):
            if i != axis:
                n.couple(a, b)
            elif n.pair(b)[0] == n.pair(b)[1]:
                n.couple(a, b.at(slice(start, start + a.size)))
            else:
                n.protect([a, b], "joined along an axis of varying length")
        start += x[axis].size


@op(
    "Split",
    examples=[
        Example(
            "{t1}, {t2} = Split<axis=1>({x}, {i:[C/2,C/2]})\n{t3} = Relu({t1})\n{y} = Mul({t3}, {t2})",
            multiple=2,
        ),
        Example("{t1}, {t2} = Split<axis=1>({x}, {i:[2,C-2]})\n{y} = Concat<axis=1>({t2}, {t1})"),
        Example("{y}, {t1} = Split<axis=1>({x}, {i:[3,C-3]})"),
        Example(
            "{t1}, {t2} = Split<axis=1, num_outputs=2>({x})\n{y} = Sub({t1}, {t2})", multiple=2
        ),
        Example(
            "{t1}, {t2}, {t3} = Split<axis=-1>({x}, {i:[1,2,C-3]})\n{y} = Concat<axis=-1>({t3}, {t1})",
            rank=3,
        ),
    ],
)
def split(n: NodeView) -> None:
    """The outputs are consecutive pieces of x along one axis."""
    x, ys = n.x(0), n.ys()
    axis, start = int(n.attr("axis", 0)) % x.rank, 0
    for y in ys:
        for i, (a, b) in enumerate(zip(x, y, strict=True)):
            n.couple(a.at(slice(start, start + b.size)) if i == axis else a, b)
        start += y[axis].size
    if start != x[axis].size or len(ys) != len(n.proto.output):
        raise RuleError("the pieces do not cover the axis")
    n.lists_lengths("split", 1, [y[axis] for y in ys])


@op(
    "Slice",
    examples=[
        Example("{y} = Slice({x}, {i:[1]}, {i:[C]}, {i:[1]})"),
        Example("{y} = Slice({x}, {i:[0]}, {i:[C]}, {i:[1]}, {i:[2]})"),
        Example("{y} = Slice({x}, {i:[-1]}, {i:[-1000]}, {i:[1]}, {i:[-1]})"),
        Example("{y} = Slice({x}, {i:[0,0]}, {i:[8,8]}, {i:[2,3]}, {i:[2,2]})"),
        Example("{y} = Slice({x}, {i:[1,0]}, {i:[9223372036854775807,W]}, {i:[1,3]}, {i:[2,2]})"),
        Example("{y} = Slice({x}, {i:[-2]}, {i:[0]}, {i:[-1]}, {i:[-1]})", rank=2),
        Example(
            "{t1} = Shape({x})\n{t2} = Slice({t1}, {i:[1]}, {i:[2]})\n"
            "{t3} = Slice({w:40,C}, {i:[0]}, {t2}, {i:[0]})\n{y} = Add({x}, {t3})",
            rank=3,
        ),
        Example(
            "{t1} = Slice({x}, {i:[0]}, {i:[C/2]}, {i:[2]})\n{t2} = Slice({x}, {i:[C/2]}, {i:[C]}, {i:[2]})\n"
            "{t3} = Neg({t2})\n{y} = Concat<axis=2>({t3}, {t1})",
            rank=3,
            multiple=4,
        ),
    ],
)
def slices(n: NodeView) -> None:
    """Y picks a regular run of positions along some axes."""
    x, y = n.x(0), n.y()
    if n.computed(1, 2, 4):
        moving = n.attr_or_input("axes", 3) or range(n.x(1)[0].size)
        stay = {axis % x.rank for axis in moving}
        n.protect([t[i] for t in (x, y) for i in stay], "sliced at places computed at run time")
        rest = [i for i in range(x.rank) if i not in stay]
        n.same([x[i] for i in rest], [y[i] for i in rest])
        return
    starts, ends = n.attr_or_input("starts", 1), n.attr_or_input("ends", 2)
    if starts is None or ends is None:
        raise RuleError("no starts or ends")
    axes = n.attr_or_input("axes", 3) or list(range(len(starts)))
    steps = n.attr_or_input("steps", 4) or [1] * len(starts)
    chosen = {
        a % x.rank: slice(s, e, t) for a, s, e, t in zip(axes, starts, ends, steps, strict=True)
    }
    for i, (a, b) in enumerate(zip(x, y, strict=True)):
        if i not in chosen or (n.pair(a) == n.pair(b) and chosen[i].step == 1):
            n.couple(a, b)
        elif n.pair(a)[0] != n.pair(a)[1]:
            n.protect([a, b], "sliced along an axis of varying length")
        else:
            n.selects(i, a, b, _positions(chosen[i], a.size))
    n.hands_on()


def _positions(part: slice, size: int) -> np.ndarray:
    """Positions of an ONNX slice: ends beyond the axis are clamped, a low end included when reversed."""
    if part.step < 0 and part.stop < -size:
        part = slice(part.start, None, part.step)
    return np.arange(size, dtype=np.int32)[part]


@op(
    "Gather",
    examples=[
        Example("{y} = Gather<axis=1>({x}, {i:[2,0,1]})"),
        Example("{y} = Gather<axis=1>({x}, {i:[0,1,1,2,0]})"),
        Example("{y} = Gather<axis=2>({x}, {i:[-1,0,1]})", rank=3),
        Example(
            "{t1} = Gather<axis=1>({x}, {i:1})\n{t2} = Unsqueeze({t1}, {i:[1]})\n{y} = Mul({x}, {t2})"
        ),
        Example(
            "{t1} = Reshape({i:[0,1,2,0]}, {i:[2,2]})\n{t2} = Gather<axis=1>({x}, {t1})\n{y} = Reshape({t2}, {i:[0,4,H,W]})"
        ),
        Example("{t1} = ArgMax<axis=1, keepdims=0>({x})\n{y} = Gather({w:C,6}, {t1})", rank=2),
    ],
)
def gather(n: NodeView) -> None:
    """Y picks positions of x by index: constant indices are a map, others read any position."""
    x, index, y = n.x(0), n.x(1), n.y()
    axis, value = int(n.attr("axis", 0)) % x.rank, n.const(1)
    n.same([*x[:axis], *x[axis + 1 :]], [*y[:axis], *y[axis + index.rank :]])
    if value is not None and value.ndim <= 1:
        target = y[axis] if value.ndim else n.axis(1, "read by a scalar")  # which stays
        if n.pair(x[axis])[0] == n.pair(x[axis])[1]:
            picked = np.where(value < 0, value + x[axis].size, value)
            n.selects(axis, x[axis], target, np.atleast_1d(picked))
        else:
            n.protect([x[axis], target], "picked along an axis of varying length")
    else:
        n.protect(index, "looked up by index")
        n.looks_up(0, axis, 1)
        n.same(index, y[axis : axis + index.rank])


@op(
    "Pad",
    examples=[
        Example("{y} = Pad({x}, {i:[0,1,0,0,0,2,0,0]})"),
        Example("{y} = Pad({x}, {i:[0,0,1,1,0,0,1,1]})"),
        Example("{y} = Pad({x}, {i:[0,-1,0,1,0,-1,0,0]})"),
        Example("{y} = Pad({x}, {i:[-1,2]}, {f:0.5}, {i:[1]})"),
        Example("{y} = Pad({x}, {i:[2,-1]}, {f:0.5}, {i:[-1]})", rank=3),
        Example('{y} = Pad<mode="reflect">({x}, {i:[0,0,1,1,0,0,1,1]})'),
        Example('{t1} = Pad<mode="edge">({x}, {i:[0,1,0,0,0,1,0,0]})\n{y} = Mul({t1}, {t1})'),
    ],
)
def pad(n: NodeView) -> None:
    """New positions around x are free; with other modes than constant the padded axis stays."""
    x, y = n.x(0), n.y()
    pads = n.attr_or_input("pads", 1) or n.attr_or_input("paddings", 1)
    axes = n.attr_or_input("axes", 3) or list(range(x.rank))
    if pads is None:
        raise RuleError("no pads")
    around = {a % x.rank: (pads[i], pads[i + len(axes)]) for i, a in enumerate(axes)}
    constant = n.attr("mode", b"constant") == b"constant"
    for i, (a, b) in enumerate(zip(x, y, strict=True)):
        before, after = around.get(i, (0, 0))
        if (before, after) == (0, 0):
            n.couple(a, b)
        elif constant and n.pair(a)[0] == n.pair(a)[1]:
            n.pads(i, a, b, before, after)
        else:
            n.protect([a, b], "padded along an axis of varying length or in a reflecting mode")
