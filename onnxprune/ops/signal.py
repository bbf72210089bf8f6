"""Fourier transforms: every frequency is made of every sample, so that both stay."""

from __future__ import annotations

from onnxprune.core.rules import Example, NodeView, op


@op(
    "DFT",
    since=17,
    examples=[
        Example(
            "{t1} = Unsqueeze({x}, {i:[-1]})\n{t2} = DFT({t1}, , {i:1})\n"
            "{y} = Gather<axis=3>({t2}, {i:0})",
            rank=3,
            opsets=(20,),
        ),
        Example(
            "{t1} = Unsqueeze({x}, {i:[-1]})\n{t2} = DFT<axis=1>({t1})\n"
            "{y} = Gather<axis=3>({t2}, {i:1})",
            rank=3,
            opsets=(18,),
        ),
        Example(
            "{t1} = Unsqueeze({x}, {i:[-1]})\n{t2} = Unsqueeze({x2}, {i:[-1]})\n"
            "{t3} = Concat<axis=-1>({t1}, {t2})\n{t4} = DFT({t3}, , {i:1})\n"
            "{y} = Gather<axis=3>({t4}, {i:0})",
            rank=3,
            opsets=(20,),
        ),
    ],
)
def fourier(n: NodeView) -> None:
    """Y is the spectrum of x along one axis, which stays; real and imaginary parts are last."""
    x, y = n.x(0), n.y()
    axis = n.attr_or_input("axis", 2) or [1 if n.graph.opsets.get("", 1) < 20 else -2]
    along = axis[0] % x.rank
    rest = [i for i in range(x.rank - 1) if i != along]
    n.same([x[i] for i in rest], [y[i] for i in rest])
    n.protect([x[along], y[along]])
    n.protect([x[-1], y[-1]], "real and imaginary parts")
