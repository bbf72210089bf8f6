"""Quantisation nodes: values pass through; per-channel scales follow their channel."""

from __future__ import annotations

from onnxprune.core.rules import NodeView, RuleError, op


@op("QuantizeLinear", "DequantizeLinear")
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
