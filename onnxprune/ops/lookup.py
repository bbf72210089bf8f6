"""Reads and writes by index that is known only at run time: the indexed axes stay, the others pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnxprune.core.positions import Axis
from onnxprune.core.rules import Example, NodeView, op

_WHY = "looked up by index"


def _rowwise(n: NodeView, operands: Sequence[Sequence[Axis]], axis: int) -> None:
    """Couple all operands along every axis but one, which stays; shorter ones stay too."""
    for axes in zip(*operands, strict=True):
        first = axes[0]
        for other in axes[1:]:
            if n.pair(first) == n.pair(other):
                n.couple(first, other)
            else:
                n.protect([first, other], _WHY)
    n.protect([x[axis] for x in operands], _WHY)


@op(
    "GatherElements",
    "ScatterElements",
    examples=[
        Example("{t1}, {t2} = TopK<axis=3>({x}, {i:[3]})\n{y} = GatherElements<axis=3>({x}, {t2})"),
        Example(
            "{t1}, {t2} = TopK<axis=3>({x}, {i:[3]})\n{y} = ScatterElements<axis=3>({x}, {t2}, {t1})"
        ),
    ],
)
def elements(n: NodeView) -> None:
    """Y picks (or writes) along one axis, element by element, by a tensor of indices."""
    x = n.x(0)
    _rowwise(n, [*n.xs(), n.y()], int(n.attr("axis", 0)) % x.rank)


@op(
    "TopK",
    examples=[
        Example("{y}, {t1} = TopK<axis=3>({x}, {i:[3]})"),
        Example("{t1}, {t2} = TopK<axis=2>({x}, {i:[2]})\n{y} = Concat<axis=2>({t1}, {x})"),
    ],
)
def top_k(n: NodeView) -> None:
    """Values and indices of the largest along one axis, which stays."""
    x = n.x(0)
    axis = int(n.attr("axis", -1)) % x.rank
    for y in n.ys():
        n.same([a for i, a in enumerate(x) if i != axis], [a for i, a in enumerate(y) if i != axis])
        n.protect([x[axis], y[axis]])


@op(
    "GatherND",
    examples=[
        Example("{t5} = Reshape({i:[0,1,1,0]}, {i:[2,2]})\n{y} = GatherND({x}, {t5})", rank=3),
    ],
)
def gather_nd(n: NodeView) -> None:
    """Y[..., rest] = x[index, rest]: what is indexed stays, the rest passes through."""
    x, index, y = n.x(0), n.x(1), n.y()
    batch = int(n.attr("batch_dims", 0))
    depth = batch + index[-1].size
    _indexed(n, x[:depth], index)
    n.protect(y[: index.rank - 1], _WHY)
    n.same(x[depth:], y[index.rank - 1 :])


@op(
    "ScatterND",
    examples=[
        Example(
            "{t5} = Reshape({i:[0,1,1,0]}, {i:[2,2]})\n{y} = ScatterND({x}, {t5}, {w:2,C})", rank=3
        ),
    ],
)
def scatter_nd(n: NodeView) -> None:
    """Y = x with y[index, rest] = updates: what is indexed stays, the rest passes through."""
    x, index, updates = n.x(0), n.x(1), n.x(2)
    depth = index[-1].size
    n.same(x, n.y())
    _indexed(n, x[:depth], index)
    n.protect(updates[: index.rank - 1], _WHY)
    n.same(x[depth:], updates[index.rank - 1 :])


def _indexed(n: NodeView, axes: Iterable[Axis], index: Iterable[Axis]) -> None:
    n.protect([*axes, *index], _WHY)


@op(
    "GridSample",
    examples=[
        Example(
            "{t1} = ReduceMean<keepdims=1>({x}, {i:[1]})\n{t2} = Reshape({t1}, {i:[0,-1,4,2]})\n"
            "{t3} = Tanh({t2})\n{y} = GridSample({x}, {t3})"
        )
    ],
    since=16,
)
def grid_sample(n: NodeView) -> None:
    """Y[n,c] samples x[n,c] at points of a grid; space stays."""
    x, grid, y = n.x(0), n.x(1), n.y()
    n.same(x[:2], y[:2])
    n.couple(grid[0], x[0])
    n.protect([*x[2:], *y[2:], *grid[1:]], "a spatial axis of a sampling")
