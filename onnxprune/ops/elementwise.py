"""Ops that work position by position: unary maps and broadcast arithmetic."""

from __future__ import annotations

from onnxprune.core.rules import Example, NodeView, op

_UNARY = (
    "Relu", "LeakyRelu", "ThresholdedRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish",
    "Swish", "Gelu", "Mish", "Softplus", "Softsign", "Tanh", "Erf", "Exp", "Log", "Sqrt", "Reciprocal", "Abs",
    "Neg", "Ceil", "Floor", "Round", "Sign", "Sin", "Cos", "Tan", "Sinh", "Cosh", "Asin", "Acos", "Atan",
    "Asinh", "Acosh", "Atanh", "Not", "Identity", "Cast", "IsNaN", "IsInf", "Dropout", "Shrink", "BitwiseNot",
    "Clip",
)  # fmt: skip
_BROADCAST = (
    "Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Mean", "Sum", "Mod", "Where", "PRelu", "And", "Or",
    "Xor", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "BitShift", "BitwiseAnd",
    "BitwiseOr", "BitwiseXor",
)  # fmt: skip
_KEEP_ZERO_FREE = {"Log", "Reciprocal", "Sqrt", "Acosh", "Atanh", "Asin", "Acos", "Tan", "Not", "Cast",
                   "IsNaN", "IsInf", "BitwiseNot", "Sinh", "Cosh", "Exp", "Dropout", "Identity"}  # fmt: skip


def _unary_examples() -> list[Example]:
    plain = [Example(f"{{y}} = {name}({{x}})") for name in _UNARY if name not in _KEEP_ZERO_FREE]
    return [*plain, Example("{y} = Identity({x})"), Example("{y} = Dropout({x})"),
            Example("{y} = Cast<to=1>({x})"), Example("{t1} = Abs({x})\n{y} = Sqrt({t1})"),
            Example("{t1} = Tanh({x})\n{y} = Exp({t1})")]  # fmt: skip


@op(*_UNARY, examples=_unary_examples())
def unary(n: NodeView) -> None:
    """y[i] = f(x[i]): every axis passes through; a Dropout mask too."""
    for y in n.ys():
        n.same(n.x(0), y)


@op("CastLike")
def cast_like(n: NodeView) -> None:
    """y[i] = x[i] in the type of the second operand, whose positions do not matter."""
    n.same(n.x(0), n.y())


@op(
    *_BROADCAST,
    examples=[
        Example("{y} = Add({x}, {x2})"),
        Example("{y} = Sub({x}, {x2})"),
        Example("{y} = Mul({x}, {x2})"),
        Example("{y} = Max({x}, {x2})"),
        Example("{y} = Min({x}, {x2})"),
        Example("{y} = Mean({x}, {x2})"),
        Example("{y} = Sum({x}, {x2}, {x})"),
        Example("{y} = Add({x}, {w:C,1,1})"),
        Example("{y} = Mul({x}, {w:C,1,1})"),
        Example("{y} = Mul({x}, {w:C})", rank=3),
        Example("{y} = Add({x}, {w:C})", rank=2),
        Example("{y} = PRelu({x}, {w:C,1,1})"),
        Example("{t1} = Exp({w:C,1,1})\n{y} = Div({x}, {t1})"),
        Example("{t1} = Abs({x})\n{y} = Pow({t1}, {f:[1.5]})"),
        Example("{t1} = Less({x}, {x2})\n{y} = Where({t1}, {x}, {x2})"),
        Example("{t1} = GlobalAveragePool({x})\n{t2} = Sigmoid({t1})\n{y} = Mul({x}, {t2})"),
    ],
)
def broadcast(n: NodeView) -> None:
    """y = f(a, b, ...) under broadcasting: axes of equal length are the same positions."""
    n.broadcast(n.xs(), n.y())


@op("CumSum", "Softmax", "LogSoftmax", "Hardmax", "LpNormalization", since=1)
def along_axis(n: NodeView) -> None:
    """y mixes positions along one axis, which stays; the others pass through."""
    n.same(n.x(0), n.y())
    default = -1 if n.graph.opsets.get("", 1) >= 13 or n.proto.op_type == "LpNormalization" else 1  # noqa: PLR2004
    axes = n.attr_or_input("axis", 1)
    axis = (axes[0] if axes else default) % n.x(0).rank
    flattened = n.proto.op_type.endswith("max") and n.graph.opsets.get("", 1) < 13  # noqa: PLR2004
    n.protect(n.x(0)[axis:] if flattened else n.x(0)[axis])


@op("Trilu")
def trilu(n: NodeView) -> None:
    """y keeps a triangle of the last two axes, which stay."""
    n.same(n.x(0), n.y())
    n.protect(n.x(0)[-2:])
