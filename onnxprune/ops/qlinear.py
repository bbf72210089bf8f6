"""Integers in and out, in onnxruntime's own domain: sums, tables, pools, joins; shapes of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import onnx.defs
from onnx import NodeProto, TensorProto, helper, shape_inference

from onnxprune.core.input_shapes import Shape
from onnxprune.core.rules import OP_RULES, Example, NodeView, op
from onnxprune.core.typed_shape import TypedShape

from .integer import IN, IN2, OUT, single
from .pool import pool
from .quant import MICROSOFT
from .select import join

T = TypeVar("T")
_TWIN_OPSET = 18  # where shapes of the float twins are looked up


@op(
    "QLinearAdd",
    "QLinearMul",
    domain=MICROSOFT,
    examples=[
        Example(
            f"{IN}{IN2}{{t9}} = com.microsoft.{name}({{t1}}, {{f:0.03}}, {{u:120}}, "
            f"{{t2}}, {{f:0.04}}, {{u:110}}, {{f:0.1}}, {{u:125}}){OUT}"
        )
        for name in ("QLinearAdd", "QLinearMul")
    ],
)
def qlinear_binary(n: NodeView) -> None:
    """Y = f(a, b) under broadcasting; a sum in other steps than a's is none that a block could skip."""
    single(n, 1, 2, 4, 5, 6, 7)
    n.broadcast([n.x(0), n.x(3)], n.y())


@op(
    "QLinearSigmoid",
    "QLinearLeakyRelu",
    domain=MICROSOFT,
    examples=[
        Example(
            IN + "{t9} = com.microsoft.QLinearSigmoid({t1}, {f:0.03}, {u:120}, {f:0.004}, {u:0})\n"
            "{y} = DequantizeLinear({t9}, {f:0.004}, {u:0})"
        ),
        Example(
            IN + "{t9} = com.microsoft.QLinearLeakyRelu<alpha=0.2>"
            "({t1}, {f:0.03}, {u:120}, {f:0.1}, {u:125})" + OUT
        ),
    ],
)
def qlinear_unary(n: NodeView) -> None:
    """y[i] = f(x[i]) by a table of 256 values."""
    single(n, 1, 2, 3, 4)
    n.same(n.x(0), n.y())


@op(
    "QLinearAveragePool",
    "QLinearGlobalAveragePool",
    domain=MICROSOFT,
    examples=[
        Example(
            IN + "{t9} = com.microsoft.QLinearAveragePool<kernel_shape=[2,2], strides=[2,2]>"
            "({t1}, {f:0.03}, {u:120}, {f:0.02}, {u:125})\n"
            "{y} = DequantizeLinear({t9}, {f:0.02}, {u:125})"
        ),
        Example(
            IN + "{t9} = com.microsoft.QLinearGlobalAveragePool"
            "({t1}, {f:0.03}, {u:120}, {f:0.01}, {u:125})\n"
            "{y} = DequantizeLinear({t9}, {f:0.01}, {u:125})"
        ),
    ],
)
def qlinear_pool(n: NodeView) -> None:
    """y[n,c] averages x[n,c] over space, which stays."""
    if n.attr("channels_last", 0):
        n.refuse("channels are last")
    single(n, 1, 2, 3, 4)
    pool(n)


@op(
    "QLinearConcat",
    domain=MICROSOFT,
    examples=[
        Example(
            IN + IN2 + "{t9} = com.microsoft.QLinearConcat<axis=1>({f:0.1}, {u:125}, "
            "{t1}, {f:0.03}, {u:120}, {t2}, {f:0.04}, {u:110})" + OUT
        ),
    ],
)
def qlinear_concat(n: NodeView) -> None:
    """Y is the operands one after the other along one axis, each brought to the output's steps."""
    operands = range(2, len(n.proto.input), 3)
    single(n, 0, 1, *(slot + i for slot in operands for i in (1, 2)))
    join(n, [n.x(slot) for slot in operands])


def _twin_shape(
    op_type: str, slots: Callable[[NodeProto], list[int]], like: Callable[[NodeProto], int]
) -> Callable[[NodeProto, Mapping[str, Shape]], Mapping[str, Shape]]:
    """Return a shape function: onnx's own for `op_type` on some operands, typed like another."""
    schema = onnx.defs.get_schema(op_type, _TWIN_OPSET, "")
    imports = [helper.make_opsetid("", _TWIN_OPSET)]

    def shape(node: NodeProto, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
        names = [node.input[slot] for slot in slots(node)]
        twin = helper.make_node(op_type, names, [node.output[0]])
        twin.attribute.extend(a for a in node.attribute if a.name in schema.attributes)
        types = {
            name: helper.make_tensor_type_proto(TensorProto.FLOAT, shapes[name]) for name in names
        }
        found = shape_inference.infer_node_outputs(schema, twin, types, {}, None, imports)
        dims = found[node.output[0]].tensor_type.shape.dim
        wide = TypedShape.of(tuple(int(d.dim_value) for d in dims), node.input[like(node)])
        return {node.output[0]: wide}

    return shape


def _always(value: T) -> Callable[[NodeProto], T]:
    return lambda _: value


def _q_gemm_like(node: NodeProto) -> int:
    """The zero point of the output; real values, like a scale, without one."""
    return 8 if len(node.input) > 8 else 1


for _op_type, _twin, _slots, _like in (
    ("QLinearAdd", "Add", [0, 3], 0),
    ("QLinearMul", "Mul", [0, 3], 0),
    ("QLinearSigmoid", "Sigmoid", [0], 0),
    ("QLinearLeakyRelu", "LeakyRelu", [0], 0),
    ("QLinearAveragePool", "AveragePool", [0], 0),
    ("QLinearGlobalAveragePool", "GlobalAveragePool", [0], 0),
    ("MatMulIntegerToFloat", "MatMul", [0, 1], 2),
    ("DynamicQuantizeMatMul", "MatMul", [0, 1], 0),
):
    OP_RULES.shape(_op_type, MICROSOFT)(_twin_shape(_twin, _always(_slots), _always(_like)))
OP_RULES.shape("QGemm", MICROSOFT)(_twin_shape("Gemm", lambda _: [0, 3], _q_gemm_like))
OP_RULES.shape("QLinearConcat", MICROSOFT)(
    _twin_shape("Concat", lambda node: [*range(2, len(node.input), 3)], lambda _: 1)
)
