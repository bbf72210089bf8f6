"""Reshape, Transpose and their kin: positions move, nothing is computed."""

from __future__ import annotations

from itertools import pairwise
from math import prod

from onnxprune.core.positions import Axis
from onnxprune.core.rules import Example, NodeView, RuleError, op

Pair = tuple[int, int]
_VARYING = "repeated a number of times computed at run time"


@op(
    "Transpose",
    examples=[
        Example(
            "{t1} = Transpose<perm=[0,2,3,1]>({x})\n{t2} = Relu({t1})\n{y} = Transpose<perm=[0,3,1,2]>({t2})"
        ),
        Example("{y} = Transpose<perm=[0,1,3,2]>({x})"),
        Example("{t1} = Transpose({x})\n{t2} = Mul({t1}, {w:C,1})\n{y} = Transpose({t2})", rank=2),
    ],
)
def transpose(n: NodeView) -> None:
    """y[i] = x[perm[i]]."""
    x, y = n.x(0), n.y()
    perm = n.attr("perm") or list(reversed(range(x.rank)))
    n.same([x[i] for i in perm], y)
    n.stands_for(perm)
    n.hands_on()


@op(
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Reshape",
    examples=[
        Example("{y} = Flatten({x})"),
        Example("{y} = Reshape({x}, {i:[0,-1]})"),
        Example(
            "{t1} = Reshape({x}, {i:[0,2,C/2,H,W]})\n{t2} = Mul({t1}, {w:C/2,1,1})\n{y} = Reshape({t2}, {i:[0,C,H,W]})",
            multiple=4,
        ),
        Example(
            "{t1} = Reshape({x}, {i:[0,C/2,2,H,W]})\n{t2} = Mul({t1}, {w:C/2,1,1,1})\n{y} = Reshape({t2}, {i:[0,-1,H,W]})",
            multiple=4,
        ),
        Example(
            "{t1} = Reshape({x}, {i:[0,0,2,C/2]})\n{t2} = Mul({t1}, {w:2,C/2})\n{y} = Reshape({t2}, {i:[0,0,-1]})",
            rank=3,
            multiple=4,
        ),
        Example(
            "{t1} = Reshape({x}, {i:[-1,C,H,W]})\n{t2} = Reshape({t1}, {i:[0,C,-1]})\n{y} = Transpose<perm=[0,2,1]>({t2})"
        ),
        Example(
            "{t1} = Shape({x})\n{t2} = Slice({t1}, {i:[0]}, {i:[1]})\n{t3} = Concat<axis=0>({t2}, {i:[-1]})\n{y} = Reshape({x}, {t3})"
        ),
        Example(
            "{t1} = Shape({x})\n{t2} = Slice({t1}, {i:[0]}, {i:[1]})\n{t3} = Concat<axis=0>({t2}, {i:[C/2,2,H,W]})\n"
            "{t4} = Reshape({x}, {t3})\n{t5} = Mul({t4}, {w:C/2,2,1,1})\n{y} = Reshape({t5}, {t1})",
            multiple=4,
        ),
        Example(  # heads in the batch, and a length that follows from the rest
            "{t1} = Shape({x})\n{t2} = Slice({t1}, {i:[0]}, {i:[1]})\n{t3} = Mul({t2}, {i:[2]})\n"
            "{t4} = Concat<axis=0>({t3}, {i:[-1,H,W]})\n{t5} = Reshape({x}, {t4})\n"
            "{t6} = Mul({t5}, {w:C/2,1,1})\n{y} = Reshape({t6}, {t1})",
            multiple=4,
        ),
        Example(
            "{t1} = Reshape({x}, {i:[0,2,C/2,H,W]})\n{t2} = Transpose<perm=[0,2,1,3,4]>({t1})\n{y} = Reshape({t2}, {i:[0,C,H,W]})",
            multiple=4,
        ),
        Example("{t1} = Unsqueeze({x}, {i:[2]})\n{t2} = Tanh({t1})\n{y} = Squeeze({t2}, {i:[2]})"),
        Example("{y} = Unsqueeze({x}, {i:[-1,2]})", rank=2),
        Example(
            "{t1} = GlobalAveragePool({x})\n{t2} = Squeeze({t1}, {i:[2,3]})\n{t3} = Mul({t2}, {w:C})\n{y} = Unsqueeze({t3}, {i:[2,3]})"
        ),
    ],
)
def reshape(n: NodeView) -> None:
    """Blocks of axes with equal products are refined to common factors; an axis is their product."""
    x, y = n.x(0), n.y()
    for left, right in _blocks([n.pair(a) for a in x], [n.pair(a) for a in y]):
        _refine(n, [x[i] for i in left], [y[i] for i in right])
    n.hands_on()
    if n.proto.op_type == "Reshape":
        n.input_is_shape(1, list(y))


def _blocks(left: list[Pair], right: list[Pair]) -> list[tuple[list[int], list[int]]]:
    """Cut both lists of axes into the shortest runs whose products agree in both instances."""
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(left) or j < len(right):
        run_left, run_right = [i] if i < len(left) else [], [j] if j < len(right) else []
        i, j = i + len(run_left), j + len(run_right)
        while (have := _product(left, run_left)) != (want := _product(right, run_right)):
            if have[0] * have[1] < want[0] * want[1] and i < len(left):
                run_left.append(i)
                i += 1
            elif j < len(right):
                run_right.append(j)
                j += 1
            elif i < len(left):
                run_left.append(i)
                i += 1
            else:
                raise RuleError("element counts differ")
        blocks.append((run_left, run_right))
    return blocks


def _product(pairs: list[Pair], run: list[int]) -> Pair:
    return prod(pairs[i][0] for i in run), prod(pairs[i][1] for i in run)


def _refine(n: NodeView, left: list[Axis], right: list[Axis]) -> None:
    """Factor both sides of one block over their common refinement, if it is a divisibility chain."""
    left, right = ([a for a in side if n.pair(a) != (1, 1)] for side in (left, right))
    if len(left) == len(right) == 1:
        n.couple(left[0], right[0])
        return
    cuts = sorted({c for side in (left, right) for c in _cuts(n, side)}, key=lambda c: c[0] * c[1])
    chain = all(b[0] % a[0] == 0 and b[1] % a[1] == 0 for a, b in pairwise(cuts))
    if not chain:
        n.protect([*left, *right], "a Reshape mixes it with its neighbours")
        return
    # cuts are products from the right end; factor k spans cuts[k] .. cuts[k + 1]
    sizes = [b[0] // a[0] for a, b in pairwise(cuts)]
    spans = list(pairwise(cuts))
    made: dict[int, Axis] = {}
    sides = [(axis, span) for side in (left, right) for axis, span in _spans(n, side)]
    for axis, (low, high) in sides:
        inside = [
            k
            for k, (a, b) in enumerate(spans)
            if low[0] <= a[0] and low[1] <= a[1] and b[0] <= high[0] and b[1] <= high[1]
        ]
        if len(inside) == 1 and inside[0] not in made:
            made[inside[0]] = axis
    for axis, (low, high) in sides:
        inside = [
            k
            for k, (a, b) in enumerate(spans)
            if low[0] <= a[0] and low[1] <= a[1] and b[0] <= high[0] and b[1] <= high[1]
        ]
        parts = []
        for k in reversed(inside):
            if k not in made:
                made[k] = n.axis(sizes[k], f"part{k}")
            parts.append(made[k])
        if parts != [axis]:
            n.factor(axis, *parts)


def _cuts(n: NodeView, side: list[Axis]) -> list[Pair]:
    """Cumulative products of lengths from the right end, starting with (1, 1)."""
    cuts = [(1, 1)]
    for axis in reversed(side):
        a, b = n.pair(axis)
        cuts.append((cuts[-1][0] * a, cuts[-1][1] * b))
    return cuts


def _spans(n: NodeView, side: list[Axis]) -> list[tuple[Axis, tuple[Pair, Pair]]]:
    cuts = _cuts(n, side)
    return [(axis, (cuts[k], cuts[k + 1])) for k, axis in enumerate(reversed(side))]


@op(
    "Expand",
    examples=[
        Example("{t1} = GlobalAveragePool({x})\n{y} = Expand({t1}, {i:[1,1,H,W]})"),
        Example("{t1} = GlobalMaxPool({x})\n{y} = Expand({t1}, {i:[1,C,4,4]})"),
        Example(
            "{t1} = ReduceSum<keepdims=1>({x}, {i:[1]})\n{t2} = Expand({t1}, {i:[1,C,1,1]})\n{y} = Mul({x}, {t2})"
        ),
        Example("{t1} = Shape({x})\n{t2} = Expand({w:C,1,1}, {t1})\n{y} = Mul({x}, {t2})"),
    ],
)
def expand(n: NodeView) -> None:
    """Axes of length 1 are repeated into new positions; the others pass through."""
    n.broadcast([n.x(0)], n.y())
    n.input_is_shape(1, list(n.y()))


@op(
    "Tile",
    examples=[
        Example("{y} = Tile({x}, {i:[1,1,2,1]})"),
        Example("{y} = Tile({x}, {i:[1,2,1,1]})"),
        Example(
            "{t1} = ReduceSum<keepdims=1>({x}, {i:[1]})\n{t2} = Tile({t1}, {i:[1,C,1,1]})\n{y} = Mul({x}, {t2})"
        ),
        Example(
            "{t1} = Shape({x})\n{t2} = Slice({t1}, {i:[0]}, {i:[1]})\n{t3} = Concat<axis=0>({t2}, {i:[1]})\n"
            "{t4} = Tile({w:1,C}, {t3})\n{y} = Add({x}, {t4})",
            rank=2,
        ),
    ],
)
def tile(n: NodeView) -> None:
    """y[i] = repeats x x[i]: each position again and again, or new ones where x has length 1."""
    x, y = n.x(0), n.y()
    if n.computed(1):
        n.broadcast([x], y)  # axes of equal length are repeated once
        n.protect([b for a, b in zip(x, y, strict=True) if n.pair(a) != n.pair(b)], _VARYING)
        return
    repeats = n.attr_or_input("repeats", 1) or []
    counts = [n.axis(count, "repeat") for count in repeats]
    for a, b, count in zip(x, y, counts, strict=True):
        if count.size == 1:
            n.couple(a, b)
        elif a.size == 1:
            n.couple(count, b)
        elif n.pair(a)[0] == n.pair(a)[1]:
            n.factor(b, count, a)
        else:
            n.protect([a, b], "repeated along an axis of varying length")
    n.lists_lengths("repeats", 1, counts)


@op(
    "DepthToSpace",
    "SpaceToDepth",
    examples=[
        Example('{y} = DepthToSpace<blocksize=2, mode="DCR">({x})', multiple=8),
        Example('{y} = DepthToSpace<blocksize=2, mode="CRD">({x})', multiple=8),
        Example("{y} = SpaceToDepth<blocksize=2>({x})"),
    ],
)
def depth_space(n: NodeView) -> None:
    """The deep axis is block x channels (DCR) or channels x block (CRD) of the shallow one."""
    x, y, block = n.x(0), n.y(), int(n.attr("blocksize")) ** 2
    deep, shallow = (x, y) if n.proto.op_type == "DepthToSpace" else (y, x)
    inner = n.axis(block, "block")
    n.protect([inner, *x[2:], *y[2:]], "a block of pixels")
    n.couple(x[0], y[0])
    crd = n.attr("mode", b"DCR") == b"CRD"
    n.factor(deep[1], *((shallow[1], inner) if crd else (inner, shallow[1])))


@op(
    "Shape",
    examples=[
        Example(
            "{t1} = Shape({x})\n{t2} = Cast<to=1>({t1})\n{t3} = Gather({t2}, {i:1})\n{y} = Div({x}, {t3})"
        ),
        Example(
            "{t1} = Shape<start=0, end=2>({x})\n{t2} = ConstantOfShape<value=float[1] {0.5}>({t1})\n"
            "{t3} = Unsqueeze({t2}, {i:[2,3]})\n{y} = Add({x}, {t3})"
        ),
        Example(
            "{t1} = Reshape({x}, {i:[-1,C/4,H,W]})\n{t2} = Shape({t1})\n{t3} = Relu({t1})\n"
            "{t4} = Reshape({t3}, {t2})\n{y} = Reshape({t4}, {i:[-1,C,H,W]})",
            multiple=8,
        ),
    ],
)
def shape(n: NodeView) -> None:
    """Y lists the lengths of x, whose positions do not matter."""
    x = n.x(0)
    n.reads_shape(x[slice(n.attr("start", 0), n.attr("end", x.rank))])


@op(
    "Size",
    examples=[
        Example(
            "{t1} = GlobalAveragePool({x})\n{t2} = Size({t1})\n{t3} = Cast<to=1>({t2})\n{y} = Div({x2}, {t3})"
        ),
    ],
)
def size(n: NodeView) -> None:
    """Y is the number of elements of x: every static axis of it stays."""
    n.protect(n.x(0), "its length is counted by Size")


@op(
    "ConstantOfShape",
    examples=[
        Example(
            "{t1} = Shape({x})\n{t2} = ConstantOfShape<value=float[1] {0.5}>({t1})\n{y} = Concat<axis=1>({x}, {t2})"
        ),
    ],
)
def constant_of_shape(n: NodeView) -> None:
    """Y is filled with one value: its positions are free, its shape operand is mended."""
    n.input_is_shape(0, list(n.y()))


@op(
    "Range",
    "NonZero",
    examples=[
        Example(
            "{t1} = Shape({x})\n{t2} = Gather({t1}, {i:0})\n{t3} = Range({i:0}, {t2}, {i:1})\n"
            "{t4} = Cast<to=1>({t3})\n{t5} = Reshape({t4}, {i:[-1,1,1,1]})\n{y} = Mul({x}, {t5})"
        ),
    ],
)
def data_dependent(n: NodeView) -> None:
    """Y is made of integers that steer other nodes, which stay."""
    for axes in [*n.xs(), *n.ys()]:
        n.protect(axes)


@op(
    "EyeLike",
    examples=[
        Example(
            "{t1} = Transpose({x})\n{t2} = MatMul({t1}, {x})\n{t3} = EyeLike({t2})\n{t4} = Add({t2}, {t3})\n"
            "{y} = MatMul({x}, {t4})",
            rank=2,
        ),
    ],
)
def eye_like(n: NodeView) -> None:
    """Y[i,j] = 1 where i = j: rows and columns go together; off the diagonal, or not square, they stay."""
    x, y = n.x(0), n.y()
    n.same(x, y)
    if n.attr("k", 0) == 0 and n.pair(x[0]) == n.pair(x[1]):
        n.couple(y[0], y[1])
    else:
        n.protect(y, "rows and columns of a diagonal")
