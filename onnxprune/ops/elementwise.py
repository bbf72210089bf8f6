"""Ops that work position by position: unary maps and broadcast arithmetic."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import NodeProto, TensorProto

from onnxprune.core.input_shapes import Shape
from onnxprune.core.rules import OP_RULES, Example, NodeView, op
from onnxprune.core.typed_shape import TypedShape

_UNARY = (
    "Relu",
    "LeakyRelu",
    "ThresholdedRelu",
    "Elu",
    "Selu",
    "Celu",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Swish",
    "Gelu",
    "Mish",
    "Softplus",
    "Softsign",
    "Tanh",
    "Erf",
    "Exp",
    "Log",
    "Sqrt",
    "Reciprocal",
    "Abs",
    "Neg",
    "Ceil",
    "Floor",
    "Round",
    "Sign",
    "Sin",
    "Cos",
    "Tan",
    "Sinh",
    "Cosh",
    "Asin",
    "Acos",
    "Atan",
    "Asinh",
    "Acosh",
    "Atanh",
    "Not",
    "IsNaN",
    "IsInf",
    "Dropout",
    "Shrink",
    "BitwiseNot",
    "Clip",
)
_BROADCAST = (
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Min",
    "Max",
    "Mean",
    "Mod",
    "Where",
    "PRelu",
    "And",
    "Or",
    "Xor",
    "Equal",
    "Less",
    "LessOrEqual",
    "Greater",
    "GreaterOrEqual",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
)
# Written out below: their domain is not the whole line, or their values are no floats.
_BOUNDED = ("Asin", "Acos", "Atanh", "Tan", "Sinh", "Cosh", "Exp")
_POSITIVE = ("Log", "Reciprocal", "Sqrt", "Acosh")
_TESTS = ("IsNaN", "IsInf")
_OTHERS = {"Not", "BitwiseNot", *_BOUNDED, *_POSITIVE, *_TESTS}
_YOUNG = {"Gelu": (21,), "Swish": (24,)}


def _unary_examples() -> list[Example]:
    plain = [n for n in _UNARY if n not in _OTHERS]
    return [
        *(Example(f"{{y}} = {n}({{x}})", opsets=_YOUNG.get(n, (18, 21))) for n in plain),
        *(
            Example(f"{{t1}} = Tanh({{x}})\n{{t2}} = Mul({{t1}}, {{f:0.9}})\n{{y}} = {n}({{t2}})")
            for n in _BOUNDED
        ),
        *(
            Example(f"{{t1}} = Abs({{x}})\n{{t2}} = Add({{t1}}, {{f:1.5}})\n{{y}} = {n}({{t2}})")
            for n in _POSITIVE
        ),
        Example("{t1} = Sqrt({x})\n{t2} = IsNaN({t1})\n{y} = Where({t2}, {x2}, {x})"),
        Example(
            "{t1} = Relu({x})\n{t2} = Log({t1})\n{t3} = IsInf({t2})\n{y} = Where({t3}, {x2}, {x})"
        ),
        Example("{t1} = Greater({x}, {f:0.1})\n{t2} = Not({t1})\n{y} = Where({t2}, {x}, {x2})"),
        Example(
            "{t1} = Mul({x}, {f:9.0})\n{t2} = Cast<to=6>({t1})\n{t3} = BitwiseNot({t2})\n{y} = Cast<to=1>({t3})"
        ),
        Example("{y} = Relu({x})", rank=3),
        Example("{y} = Sigmoid({x})", rank=2),
    ]


def _comparison_examples() -> list[Example]:
    chosen = "\n{y} = Where({t3}, {x}, {x2})"
    both = "{t1} = Less({x}, {x2})\n{t2} = Greater({x}, {b:C,1,1})\n"
    signs = "{t1} = Sign({x})\n{t2} = Sign({x2})\n"
    whole = "{t1} = Mul({x}, {f:9.0})\n{t2} = Cast<to=6>({t1})\n{t3} = Mul({x2}, {f:9.0})\n{t4} = Cast<to=6>({t3})\n"
    return [
        *(Example(f"{both}{{t3}} = {n}({{t1}}, {{t2}}){chosen}") for n in ("And", "Or", "Xor")),
        *(
            Example(f"{signs}{{t3}} = {n}({{t1}}, {{t2}}){chosen}")
            for n in ("Equal", "LessOrEqual", "GreaterOrEqual")
        ),
        *(
            Example(f"{whole}{{t5}} = {n}({{t2}}, {{t4}})\n{{y}} = Cast<to=1>({{t5}})")
            for n in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")
        ),
        Example(
            "{t1} = Mul({x}, {x})\n{t2} = Cast<to=2>({t1})\n"
            '{t3} = BitShift<direction="LEFT">({t2}, {u:[2]})\n{y} = Cast<to=1>({t3})'
        ),
    ]


@op(*_UNARY, examples=_unary_examples())
def unary(n: NodeView) -> None:
    """y[i] = f(x[i]): every axis passes through; a Dropout mask too."""
    for y in n.ys():
        n.same(n.x(0), y)


@op(
    "Identity",
    "Cast",
    examples=[Example("{y} = Identity({x})"), Example("{y} = Cast<to=1>({x})")],
)
def as_it_is(n: NodeView) -> None:
    """y[i] = x[i], if in another type."""
    n.same(n.x(0), n.y())
    n.hands_on()


@op(
    "CastLike",
    examples=[Example("{y} = CastLike({x}, {f:[1.0]})"), Example("{y} = CastLike({x}, {x2})")],
)
def cast_like(n: NodeView) -> None:
    """y[i] = x[i] in the type of the second operand, whose positions do not matter."""
    n.same(n.x(0), n.y())


@op(
    *_BROADCAST,
    examples=[
        Example("{y} = Sub({x}, {x2})"),
        Example("{y} = Mul({x}, {x2})"),
        Example("{y} = Max({x}, {x2})"),
        Example("{y} = Min({x}, {x2})"),
        Example("{y} = Mean({x}, {x2})"),
        Example("{y} = Mul({x}, {w:C,1,1})"),
        Example("{y} = Mul({x}, {w:C})", rank=3),
        Example("{y} = PRelu({x}, {w:C,1,1})"),
        Example("{y} = PRelu({x}, {w:1,1,1})"),
        Example("{y} = Sub({x}, {x2})", rank=3),
        Example("{y} = Mul({x}, {x2})", rank=2),
        Example("{y} = Mul({w:C,1,1}, {x})"),
        Example("{y} = Div({x}, {v:C,1,1})"),
        Example("{y} = Mod<fmod=1>({x}, {v:C,1,1})"),
        Example("{t1} = Abs({x})\n{y} = Pow({t1}, {f:[1.5]})"),
        Example("{t1} = Less({x}, {x2})\n{y} = Where({t1}, {x}, {x2})"),
        Example("{t1} = GlobalAveragePool({x})\n{t2} = Sigmoid({t1})\n{y} = Mul({x}, {t2})"),
        *_comparison_examples(),
    ],
)
def broadcast(n: NodeView) -> None:
    """Y = f(a, b, ...) under broadcasting: axes of equal length are the same positions."""
    n.broadcast(n.xs(), n.y())


@OP_RULES.shape("LessOrEqual")
@OP_RULES.shape("GreaterOrEqual")
def compared_shape(node: NodeProto, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """Broadcast shape, booleans: before opset 16 onnx knows none."""
    shape = np.broadcast_shapes(*(shapes[name] for name in node.input))
    return {node.output[0]: TypedShape.of(shape, kind=TensorProto.BOOL)}


@op(
    "Add",
    "Sum",
    examples=[
        Example("{y} = Add({x}, {x2})"),
        Example("{y} = Sum({x}, {x2}, {x})"),
        Example("{y} = Add({x}, {w:C,1,1})"),
        Example("{y} = Add({x}, {w:C})", rank=2),
        Example("{y} = Add({x}, {x2})", rank=2),
        Example("{y} = Add({x}, {w:1,C,H,W})"),
    ],
)
def add(n: NodeView) -> None:
    """Y = a + b + ... under broadcasting: one sum, to which each operand contributes."""
    n.broadcast(n.xs(), n.y())
    n.adds()


@op(
    "Softmax",
    "LogSoftmax",
    examples=[
        Example("{y} = Softmax<axis=2>({x})"),
        Example("{t1} = Softmax<axis=1>({x})\n{y} = Mul({t1}, {x2})"),
        Example("{y} = LogSoftmax({x})"),
    ],
)
def shares(n: NodeView) -> None:
    """Y is what each position along one axis has of the whole; it stays, unless of unlocked classes."""
    n.same(n.x(0), n.y())
    rank, flattens = (
        n.x(0).rank,
        n.graph.opsets.get("", 1) < 13,
    )  # then all from the axis on are one
    axis = int(n.attr("axis", 1 if flattens else -1)) % rank
    if flattens and axis < rank - 1:
        n.protect(n.x(0)[axis:])
    else:
        n.reserve(n.x(0)[axis])
        n.renorm(0, [axis], "softmax")


@op(
    "CumSum",
    "Hardmax",
    "LpNormalization",
    examples=[
        Example("{y} = CumSum({x}, {i:2})"),
        Example("{t1} = Hardmax<axis=3>({x})\n{y} = Add({t1}, {x})"),
        Example("{y} = LpNormalization<axis=2, p=2>({x})"),
    ],
)
def along_axis(n: NodeView) -> None:
    """Y mixes positions along one axis, which stays; the others pass through."""
    n.same(n.x(0), n.y())
    default = -1 if n.graph.opsets.get("", 1) >= 13 or n.proto.op_type == "LpNormalization" else 1
    axes = n.attr_or_input("axis", 1)
    axis = (axes[0] if axes else default) % n.x(0).rank
    flattened = n.proto.op_type.endswith("max") and n.graph.opsets.get("", 1) < 13
    n.protect(n.x(0)[axis:] if flattened else n.x(0)[axis])


@op("Trilu", examples=[Example("{y} = Trilu<upper=0>({x})"), Example("{y} = Trilu({x}, {i:1})")])
def trilu(n: NodeView) -> None:
    """Y keeps a triangle of the last two axes, which stay."""
    n.same(n.x(0), n.y())
    n.protect(n.x(0)[-2:])
