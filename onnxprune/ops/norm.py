"""Normalisations: per channel (BatchNormalization) or with statistics over axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from onnx import NodeProto

from onnxprune.core.input_shapes import Shape
from onnxprune.core.rules import OP_RULES, Example, NodeView, op


@op(
    "BatchNormalization",
    examples=[
        Example("{y} = BatchNormalization({x}, {s:C}, {b:C}, {m:C}, {v:C})"),
        Example("{y} = BatchNormalization({x}, {s:C}, {b:C}, {m:C}, {v:C})", rank=2),
    ],
)
def batch_norm(n: NodeView) -> None:
    """y[:,c] depends on x[:,c] and four values per channel c."""
    x = n.x(0)
    n.same(x, n.y())
    for vector in [*n.xs(1), *n.ys()[1:]]:
        n.couple(vector[0], x[1])


@op(
    "InstanceNormalization",
    examples=[
        Example("{y} = InstanceNormalization<epsilon=0.1>({x}, {s:C}, {b:C})"),
        Example(
            "{t1} = Reshape({x}, {i:[0,2,-1]})\n{t2} = InstanceNormalization<epsilon=0.1>({t1}, {s:2}, {b:2})\n"
            "{t3} = Reshape({t2}, {i:[0,C,H,W]})\n{y} = Mul({t3}, {w:C,1,1})",
            multiple=4,
        ),
    ],
)
def instance_norm(n: NodeView) -> None:
    """y[:,c] is normalised over all axes after c: removal there renormalises; scale, bias per c."""
    x = n.x(0)
    n.same(x, n.y())
    for vector in n.xs(1):
        n.couple(vector[0], x[1])
    _statistics(n, 2, "layer", affine_axis=1)


@op(
    "LayerNormalization",
    examples=[
        Example("{y} = LayerNormalization({x}, {s:C}, {b:C})", rank=3),
        Example("{y} = LayerNormalization<epsilon=0.1>({x}, {s:C})", rank=2),
        Example("{y} = LayerNormalization<axis=1, epsilon=0.1>({x}, {s:C,H,W}, {b:C,H,W})"),
    ],
)
def layer_norm(n: NodeView) -> None:
    """Y is normalised over the last axes: removal there renormalises."""
    x = n.x(0)
    axis = int(n.attr("axis", -1)) % x.rank
    n.same(x, n.y())
    for scale in n.xs(1):
        n.broadcast([scale], n.y())
    for statistic in n.ys()[1:]:
        n.broadcast([statistic], n.y())
    _statistics(n, axis, "layer")


@op(
    "RMSNormalization",
    since=23,
    examples=[Example("{y} = RMSNormalization<epsilon=0.1>({x}, {s:C})", rank=3, opsets=(23, 24))],
)
@op(
    "SimplifiedLayerNormalization",  # onnxruntime's, in the default domain
    examples=[Example("{y} = SimplifiedLayerNormalization<axis=-1>({x}, {s:C})", rank=3)],
)
def rms_norm(n: NodeView) -> None:
    """Y is x over its root mean square on the last axes: removal there renormalises."""
    x = n.x(0)
    axis = int(n.attr("axis", -1)) % x.rank
    n.same(x, n.y())
    n.broadcast(n.xs(1), n.y())
    _statistics(n, axis, "rms")


def _statistics(
    n: NodeView, first: int, kind: Literal["layer", "rms"], affine_axis: int | None = None
) -> None:
    """Statistics over the axes from `first` on; of varying length, they stay."""
    axes = n.x(0)[first:]
    if all(a == b for a, b in map(n.pair, axes)):
        n.renorm(
            0,
            range(first, n.x(0).rank),
            kind,
            epsilon=n.attr("epsilon", 1e-5),
            affine_axis=affine_axis,
        )
    else:
        n.protect(axes, "normalised along an axis of varying length")


@op("LRN", examples=[Example("{t1} = LRN<size=3, alpha=0.5>({x})\n{y} = Mul({t1}, {x2})")])
def local_response(n: NodeView) -> None:
    """Y mixes neighbouring channels, which stay."""
    n.same(n.x(0), n.y())
    n.protect(n.x(0)[1])


@op(
    "GroupNormalization",
    examples=[
        Example(
            "{y} = GroupNormalization<num_groups=C/2>({x}, {s:C/2}, {b:C/2})",
            multiple=4,
            opsets=(18,),
        ),
        Example(
            "{y} = GroupNormalization<num_groups=C/2>({x}, {s:C}, {b:C})", multiple=4, opsets=(21,)
        ),
        Example(
            "{y} = GroupNormalization<num_groups=2, epsilon=0.1>({x}, {s:2}, {b:2})",
            multiple=4,
            opsets=(18,),
        ),
        Example("{y} = GroupNormalization<num_groups=1>({x}, {s:C}, {b:C})", opsets=(21,)),
    ],
)
def group_norm(n: NodeView) -> None:
    """x[1] = groups x inner; statistics run over inner, where removal renormalises, and space."""
    x = n.x(0)
    groups = n.axis(int(n.attr("num_groups")), "group")
    inner = n.axis(x[1].size // groups.size, "inner")
    n.factor(x[1], groups, inner)
    n.renorm(0, [1], "group", inner=inner, epsilon=n.attr("epsilon", 1e-5))
    n.same(x, n.y())
    n.protect(x[2:])
    for vector in n.xs(1):
        n.couple(vector[0], x[1] if len(vector[0]) == len(x[1]) else groups)
    n.attr_is_length("num_groups", groups)


@OP_RULES.shape("LayerNormalization")  # before opset 17, where onnxruntime wrote it already
@OP_RULES.shape("SimplifiedLayerNormalization")
@OP_RULES.shape("MeanVarianceNormalization")
@OP_RULES.shape("GroupNormalization")
def group_norm_shape(node: NodeProto, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """Output shape = input shape, which onnx does not infer."""
    return {node.output[0]: shapes[node.input[0]]}


@op(
    "MeanVarianceNormalization",
    examples=[Example("{y} = MeanVarianceNormalization<axes=[2,3]>({x})")],
)
def mean_variance(n: NodeView) -> None:
    """Y is normalised over some axes, which stay."""
    x = n.x(0)
    n.same(x, n.y())
    n.protect([x[i] for i in n.attr("axes") or [0, 2, 3]])
