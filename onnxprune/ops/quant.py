"""Quantisation nodes: values pass through; per-channel scales follow their channel."""

from __future__ import annotations

from onnxprune.core.rules import Example, NodeView, RuleError, op


@op(
    "QuantizeLinear",
    "DequantizeLinear",
    examples=[
        Example(
            "{t1} = QuantizeLinear({x}, {f:0.02}, {u:128})\n{y} = DequantizeLinear({t1}, {f:0.02}, {u:128})"
        ),
        Example(
            "{t1} = QuantizeLinear<axis=1>({x}, {q:C}, {z:C})\n{y} = DequantizeLinear<axis=1>({t1}, {q:C}, {z:C})"
        ),
        Example(
            "{t1} = DequantizeLinear<axis=0>({z:2C,C,1,1}, {q:2C}, {z:2C})\n{y} = Conv({x}, {t1}, {b:2C})"
        ),
    ],
)
def quantize(n: NodeView) -> None:
    """y[i] = x[i] scaled; a vector of scales or zero points belongs to one axis."""
    x = n.x(0)
    if n.attr("block_size", 0):
        raise RuleError("blocked quantisation")
    n.same(x, n.y())
    axis = int(n.attr("axis", 1))
    for vector in n.xs(1):
        if vector.rank == 1 and vector[0].size > 1:
            n.couple(vector[0], x[axis % x.rank])
