"""LSTM, GRU, RNN: gates are stacked in front of the hidden units, which are removed in all of them."""

from __future__ import annotations

from onnxprune.core.rules import Example, NodeView, op

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@op(
    "LSTM",
    "GRU",
    "RNN",
    examples=[
        Example(
            "{t1} = Transpose<perm=[1,0,2]>({x})\n"
            "{t2}, {t3} = LSTM<hidden_size=6>({t1}, {w:1,24,C}, {w:1,24,6}, {w:1,48})\n"
            "{t4} = Squeeze({t2}, {i:[1]})\n{y} = Transpose<perm=[1,0,2]>({t4})",
            rank=3,
        ),
        Example(
            "{t1} = Transpose<perm=[1,0,2]>({x})\n"
            '{t2} = GRU<hidden_size=5, direction="bidirectional">'
            "({t1}, {w:2,15,C}, {w:2,15,5}, {w:2,30})\n"
            "{t3} = Transpose<perm=[2,0,1,3]>({t2})\n{y} = Reshape({t3}, {i:[0,0,-1]})",
            rank=3,
        ),
        Example(
            "{t1} = Transpose<perm=[1,0,2]>({x})\n"
            "{t2} = RNN<hidden_size=6>({t1}, {w:1,6,C}, {w:1,6,6})\n"
            "{t4} = Squeeze({t2}, {i:[1]})\n{y} = Transpose<perm=[1,0,2]>({t4})",
            rank=3,
        ),
        *(
            Example(
                "{t1} = Transpose<perm=[1,0,2]>({x})\n"
                f'{{t2}}, {{t3}} = {name}<hidden_size=6, direction="bidirectional">'
                f"({{t1}}, {{w:2,{6 * gates},C}}, {{w:2,{6 * gates},6}}, {{w:2,{12 * gates}}})\n"
                "{t4} = Transpose<perm=[2,0,1,3]>({t2})\n{y} = Reshape({t4}, {i:[0,0,-1]})",
                rank=3,
            )
            for name, gates in (("LSTM", 4), ("RNN", 1))
        ),
    ],
)
def recurrent(n: NodeView) -> None:
    """W[1], R[1] = gates x hidden, B[1] = 2 gates x hidden; R sums over hidden, W over the input."""
    x, w, r = n.x(0), n.x(1), n.x(2)
    count = _GATES[n.proto.op_type]
    gates, hidden = n.axis(count, "gates"), n.axis(r[2].size, "hidden")
    n.protect(gates, "a gate of a recurrent cell")
    n.couple(r[2], hidden)
    n.couple(x[2], w[2])
    for weight in (w, r):
        n.factor(weight[1], gates, hidden)
        n.protect(weight[0], "a direction of a recurrent cell")
    for slot, parts in ((3, 2 * count), (7, 3)):
        if n.has(slot):
            stacked = n.axis(parts, f"parts{slot}")
            n.protect([stacked, n.x(slot)[0]], "a gate of a recurrent cell")
            n.factor(n.x(slot)[1], stacked, hidden)
    n.protect([*x[:2], *n.x(4)], "time or samples of a recurrent cell")
    for state in [n.x(5), n.x(6), *n.ys()]:
        if state:
            n.couple(state[-1], hidden)
            n.protect(state[:-1], "time or samples of a recurrent cell")
    n.attr_is_length("hidden_size", hidden)
    n.contract(0, 2)
    n.contract(1, 2)
    n.contract(2, 2)
    n.macs(x[0], x[1], w[0], w[1], w[2])
    n.macs(x[0], x[1], r[0], r[1], r[2])
