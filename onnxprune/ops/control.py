"""If: one body or the other. Bodies stand open around it (see `core.scopes`)."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import NodeProto

from onnxprune.core.input_shapes import Shape
from onnxprune.core.rules import OP_RULES, Example, NodeView, op
from onnxprune.core.scopes import bodies, is_hollow
from onnxprune.core.typed_shape import TypedShape

_BODIES = ("then_branch", "else_branch")
_CONDITION = "{t1} = ReduceSum<keepdims=0>({x})\n{t2} = Greater({t1}, {f:0.5})\n"
_CHOICE = (
    "{y} = If({t2}) <then_branch = yes () => (float[] {t3}) { {t3} = Relu({x}) },"
    " else_branch = no () => (float[] {t4}) { {t5} = Mul({x2}, {s:C,1,1})  {t4} = Neg({t5}) }>"
)


@OP_RULES.shape("If")
def agreed(node: NodeProto, known: Mapping[str, Shape]) -> dict[str, Shape]:
    """Return the shapes that all bodies give their outputs alike."""
    made = [[known.get(value.name) for value in body.output] for body in bodies(node)]
    first = made and next(bodies(node)).output
    return {
        name: TypedShape.of(shapes[0], value.name)
        for name, value, *shapes in zip(node.output, first, *made, strict=False)
        if name and shapes[0] is not None and all(shape == shapes[0] for shape in shapes)
    }


@op(
    "If",
    examples=[
        Example(_CONDITION + _CHOICE),
        Example(
            _CONDITION + "{y} = If({t2}) <"
            "then_branch = yes () => (float[] {t3}) { {t3} = MatMul({x}, {w:C,C}) },"
            " else_branch = no () => (float[] {t4}) { {t4} = Add({x2}, {b:C}) }>",
            rank=2,
        ),
    ],
)
def choice(n: NodeView) -> None:
    """Y is what the body that runs makes: the same positions as in every body."""
    if len([*bodies(n.proto)]) != len(_BODIES):
        n.refuse("it has no two bodies")
    for body in bodies(n.proto):
        if not is_hollow(body):
            n.refuse("its body has inputs or sparse weights")
        for y, value in zip(n.proto.output, body.output, strict=True):
            if y:
                n.same(n.axes(value.name), n.axes(y))
    n.protect(n.x(0), "chooses which body runs")
