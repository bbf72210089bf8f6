"""Values to integers and back; weights in few bits: scales and zero points go with their channels."""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnx import NodeProto

from onnxprune.core.input_shapes import Shape
from onnxprune.core.positions import Axis
from onnxprune.core.rules import OP_RULES, Example, NodeView, TensorAxes, op
from onnxprune.core.typed_shape import TypedShape

MICROSOFT = "com.microsoft"


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
        Example(
            "{t1} = DequantizeLinear<axis=1, block_size=2>({z:12,C}, {q:12,C/2}, {z:12,C/2})\n"
            "{y} = Gemm<transB=1>({x}, {t1})",
            rank=2,
            multiple=4,
            opsets=(21,),
        ),
        Example(
            "{t1} = DequantizeLinear<axis=0, block_size=4>({z:16,C}, {q:4,C})\n"
            "{t2} = Transpose({t1})\n{y} = MatMul({x}, {t2})",
            rank=3,
            opsets=(21,),
        ),
        Example(
            "{t1} = DequantizeLinear<axis=0, block_size=3>({z:C,10}, {q:3,10})\n"
            "{y} = MatMul({x}, {t1})",
            rank=2,
            opsets=(21,),
        ),
    ],
)
def quantize(n: NodeView) -> None:
    """y[i] = x[i] scaled; a vector of scales or zero points belongs to one axis, or to blocks of it."""
    x, block = n.x(0), int(n.attr("block_size", 0))
    axis = int(n.attr("axis", 1)) % max(x.rank, 1)
    n.same(x, n.y())
    n.stands_for(range(x.rank))
    if n.proto.op_type == "DequantizeLinear":
        n.quantised(0, 1, 2, axis=axis, block=block)
    if block:
        _blocks(n, x, axis, block)
        return
    for vector in n.xs(1):
        if vector.rank == 1 and vector[0].size > 1:
            n.couple(vector[0], x[axis])


def _blocks(n: NodeView, x: TensorAxes, axis: int, block: int) -> None:
    """Couple blocked scales and zero points: whole blocks are removable, the inside of one is not."""
    blocks = n.x(1)[axis]
    for operand in n.xs(1):
        for number, (a, b) in enumerate(zip(x, operand, strict=True)):
            n.couple(blocks if number == axis else a, b)
    _whole_blocks(n, x[axis], blocks, block)


def _whole_blocks(n: NodeView, flat: Axis, blocks: Axis, block: int) -> None:
    """Declare flat = blocks x positions of a block, which go together; an incomplete block stays."""
    if flat.size == blocks.size * block:
        inside = n.axis(block, "inside")
        n.protect(inside, "a block shares one scale")
        n.factor(flat, blocks, inside)
    else:
        n.protect([flat, blocks], "its last block is incomplete")


@op(
    "QuantizeLinear",
    "DequantizeLinear",
    domain=MICROSOFT,
    examples=[
        Example(
            "{t1} = com.microsoft.QuantizeLinear({x}, {f:0.02}, {u:120})\n"
            "{y} = com.microsoft.DequantizeLinear({t1}, {f:0.02}, {u:120})"
        ),
    ],
)
def quantize_microsoft(n: NodeView) -> None:
    """y[i] = x[i] scaled, as in ONNX."""
    quantize(n)


@OP_RULES.shape("QuantizeLinear", MICROSOFT)
@OP_RULES.shape("DequantizeLinear", MICROSOFT)
def quantized_shape(node: NodeProto, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """Shape of x; integers like the zero point, values like the scale."""
    like = node.input[1 if node.op_type == "DequantizeLinear" else 2]
    return {node.output[0]: TypedShape.of(shapes[node.input[0]], like)}


@op(
    "DynamicQuantizeLinear",
    examples=[
        Example(
            "{t1}, {t2}, {t3} = DynamicQuantizeLinear({x})\n{y} = DequantizeLinear({t1}, {t2}, {t3})"
        ),
        Example(
            "{t1}, {t2}, {t3} = DynamicQuantizeLinear({x})\n{y} = DequantizeLinear({t1}, {t2}, {t3})",
            rank=3,
        ),
    ],
)
def dynamic_quantize(n: NodeView) -> None:
    """Y = x in steps of (max(x, 0) - min(x, 0)) / 255: the range is that of what is kept."""
    x = n.x(0)
    n.same(x, n.y())
    n.renorm(0, range(x.rank), "range")


@op(
    "MatMulNBits",
    domain=MICROSOFT,
    examples=[
        Example(
            "{t1} = MatMul({x}, {w:C,64})\n"
            "{y} = com.microsoft.MatMulNBits<K=64, N=12, bits=4, block_size=16>"
            "({t1}, {z:12,4,8}, {q:48}, {z:24})",
            rank=3,
        ),
        Example(
            "{t1} = MatMul({x}, {w:C,64})\n"
            "{y} = com.microsoft.MatMulNBits<K=64, N=10, bits=4, block_size=16>"
            "({t1}, {z:10,4,8}, {q:10,4}, , , {b:10})",
            rank=3,
        ),
        Example(
            "{t1} = MatMul({x}, {w:C,48})\n"
            "{y} = com.microsoft.MatMulNBits<K=48, N=9, bits=8, block_size=16>"
            "({t1}, {z:9,3,16}, {q:27}, {z:27})",
            rank=2,
        ),
        Example(
            "{y} = com.microsoft.MatMulNBits<K=C, N=12, bits=4, block_size=16>"
            "({x}, {z:12,1,8}, {q:12})",
            rank=3,
        ),
    ],
)
def matmul_n_bits(n: NodeView) -> None:
    """Y = a W' + bias, W (N, K) in few bits: rows are removable, columns by whole blocks."""
    a, b, y = n.x(0), n.x(1), n.y()
    if n.has(4):
        n.refuse("columns in an order of their own")
    bits, block = int(n.attr("bits", 4)), int(n.attr("block_size"))
    rows, blocks = b[0], b[1]
    n.same(a[:-1], y[:-1])
    n.couple(y[-1], rows)
    n.protect(b[2], "several weights share a byte")
    _whole_blocks(n, a[-1], blocks, block)
    _per_block(n, n.x(2), rows, blocks)
    if n.has(3):
        _zero_points(n, n.x(3), rows, blocks, -(-blocks.size * bits // 8))
    if n.has(5):
        n.couple(n.x(5)[0], rows)
    n.attr_is_length("N", rows)
    n.attr_is_length("K", a[-1])
    n.macs(*y, a[-1])
    n.contract(0, a.rank - 1)
    n.contract(1, 1, masked=False)
    n.quantised(1, 2, 3, block=block, packed=bits)


def _zero_points(n: NodeView, points: TensorAxes, rows: Axis, blocks: Axis, packed: int) -> None:
    """Couple one zero point a block, or `packed` bytes of them a row."""
    if math.prod(axis.size for axis in points) == rows.size * blocks.size:
        _per_block(n, points, rows, blocks)
        return
    several = n.axis(packed, "bytes")
    n.protect([blocks, several], "several zero points share a byte")
    _per_block(n, points, rows, several)


def _per_block(n: NodeView, operand: TensorAxes, rows: Axis, blocks: Axis) -> None:
    """Couple values of each block of each row, flat or not."""
    if operand.rank == 1:
        n.factor(operand[0], rows, blocks)
    else:
        n.same(operand, (rows, blocks))


@OP_RULES.shape("MatMulNBits", MICROSOFT)
def matmul_n_bits_shape(node: NodeProto, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """Rows of a, attribute N columns."""
    columns = next(a.i for a in node.attribute if a.name == "N")
    return {node.output[0]: (*shapes[node.input[0]][:-1], columns)}
