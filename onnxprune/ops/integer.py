"""Products of integers: as their float twins, with scales and zero points of the operands.

A removed position holds its zero point. Only the activations are silenced so in the proof: where one
operand of a product is nothing, the other does not count.
"""

from __future__ import annotations

from onnxprune.core.positions import Axis
from onnxprune.core.rules import Example, NodeView, TensorAxes, op

from .linear import combine, convolve, multiply
from .quant import MICROSOFT

# streams in, a second one, and out of integers, in examples
IN = "{t1} = QuantizeLinear({x}, {f:0.03}, {u:120})\n"
IN2 = "{t2} = QuantizeLinear({x2}, {f:0.04}, {u:110})\n"
OUT = "\n{y} = DequantizeLinear({t9}, {f:0.1}, {u:125})"


def single(n: NodeView, *slots: int) -> None:
    """Refuse scales and zero points of more than one element."""
    for slot in slots:
        if any(axis.size > 1 for axis in n.x(slot)):
            n.refuse("a scale or zero point for each position of an activation")


def _along(n: NodeView, axis: Axis, *slots: int) -> None:
    """Couple vectors of scales and zero points with the axis they belong to."""
    for slot in slots:
        vector = n.x(slot)
        if vector.rank == 1 and vector[0].size > 1:
            n.couple(vector[0], axis)
        elif vector.rank > 1:
            n.refuse("a scale or zero point of several axes")


@op(
    "QLinearConv",
    examples=[
        Example(
            IN + "{t9} = QLinearConv<pads=[1,1,1,1]>({t1}, {f:0.03}, {u:120}, "
            "{z:12,C,3,3}, {q:12}, {o:12}, {f:0.1}, {u:125}, {k:12})" + OUT
        ),
        Example(
            IN + "{t9} = QLinearConv<group=C>({t1}, {f:0.03}, {u:120}, "
            "{z:C,1,3,3}, {f:0.1}, {u:128}, {f:0.1}, {u:125})" + OUT
        ),
        Example(
            IN + "{t9} = QLinearConv<group=2>({t1}, {f:0.03}, {u:120}, "
            "{z:12,C/2,1,1}, {q:12}, {u:128}, {f:0.1}, {u:125}, {k:12})" + OUT,
            multiple=4,
        ),
    ],
)
def qlinear_conv(n: NodeView) -> None:
    """As Conv on (x - zero point) scale, rounded to the output's steps."""
    x, w = n.x(0), n.x(3)
    convolve(n, x, w, n.x(8), n.y())
    single(n, 1, 2, 6, 7)
    _along(n, w[0], 4, 5)
    n.contract(0, 1, zero=2)
    n.contract(3, 1, masked=False)
    n.quantised(3, 4, 5, axis=0)


@op(
    "ConvInteger",
    examples=[
        Example(
            IN + "{t2} = ConvInteger<pads=[1,1,1,1]>({t1}, {z:10,C,3,3}, {u:120}, {u:128})\n"
            "{y} = DequantizeLinear({t2}, {f:0.001})"
        ),
        Example(
            "{t1}, {t2}, {t3} = DynamicQuantizeLinear({x})\n"
            "{t4} = ConvInteger<group=C>({t1}, {z:2C,1,1,1}, {t3}, {u:128})\n"
            "{y} = DequantizeLinear({t4}, {t2})"
        ),
    ],
)
def conv_integer(n: NodeView) -> None:
    """As Conv on x - zero point and w - zero point, in int32."""
    x, w = n.x(0), n.x(1)
    convolve(n, x, w, TensorAxes(), n.y())
    single(n, 2)
    _along(n, w[0], 3)
    n.contract(0, 1, zero=2)
    n.contract(1, 1, masked=False)
    n.quantised(1, None, 3, axis=0)


@op(
    "QLinearMatMul",
    examples=[
        Example(
            IN + "{t9} = QLinearMatMul({t1}, {f:0.03}, {u:120}, {z:C,12}, {q:12}, {o:12}, "
            "{f:0.1}, {u:125})" + OUT,
            rank=3,
        ),
        Example(
            IN + IN2 + "{t3} = Transpose<perm=[0,2,1]>({t2})\n"
            "{t9} = QLinearMatMul({t1}, {f:0.03}, {u:120}, {t3}, {f:0.04}, {u:110}, "
            "{f:0.1}, {u:125})\n{t4} = DequantizeLinear({t9}, {f:0.1}, {u:125})\n"
            "{y} = MatMul({t4}, {x})",
            rank=3,
        ),
    ],
)
def qlinear_matmul(n: NodeView) -> None:
    """As MatMul on (a - zero point) scale, rounded to the output's steps."""
    _matmul(n, n.x(3), scales=(4,), zeros=(2, 5))
    single(n, 1, 6, 7)
    n.quantised(3, 4, 5, axis=-1)


@op(
    "MatMulInteger",
    examples=[
        Example(
            IN + "{t2} = MatMulInteger({t1}, {z:C,10}, {u:120}, {z:10})\n"
            "{y} = DequantizeLinear({t2}, {f:0.001})",
            rank=3,
        ),
        Example(
            "{t1}, {t2}, {t3} = DynamicQuantizeLinear({x})\n"
            "{t4} = MatMulInteger({t1}, {z:C,2C}, {t3}, {u:128})\n"
            "{t5} = DequantizeLinear({t4}, {t2})\n{y} = Mul({t5}, {f:0.02})",
            rank=2,
        ),
    ],
)
def matmul_integer(n: NodeView) -> None:
    """As MatMul on a - zero point and b - zero point, in int32."""
    _matmul(n, n.x(1), slot=1, zeros=(2, 3))
    n.quantised(1, None, 3, axis=-1)


@op(
    "MatMulIntegerToFloat",
    domain=MICROSOFT,
    examples=[
        Example(
            IN + "{y} = com.microsoft.MatMulIntegerToFloat"
            "({t1}, {z:C,12}, {f:0.03}, {q:12}, {u:120}, {z:12}, {b:12})",
            rank=3,
        ),
    ],
)
def matmul_integer_to_float(n: NodeView) -> None:
    """As MatMulInteger, with scales and a bias: real values."""
    _matmul(n, n.x(1), slot=1, scales=(3,), zeros=(4, 5))
    single(n, 2)
    if n.has(6):
        n.broadcast([n.x(6)], n.y())
    n.quantised(1, 3, 5, axis=-1)


@op(
    "DynamicQuantizeMatMul",
    domain=MICROSOFT,
    examples=[
        Example(
            "{y} = com.microsoft.DynamicQuantizeMatMul({x}, {z:C,12}, {q:12}, {z:12}, {b:12})",
            rank=3,
        ),
    ],
)
def dynamic_quantize_matmul(n: NodeView) -> None:
    """DynamicQuantizeLinear, then MatMulIntegerToFloat: the range is that of what is kept."""
    a, b, y = n.x(0), n.x(1), n.y()
    sum_b = multiply(n, a, b, y)
    _along(n, b[-1], 2, 3)
    if n.has(4):
        n.broadcast([n.x(4)], y)
    n.renorm(0, range(a.rank), "range")
    n.contract(0, a.rank - 1, masked=False)
    n.contract(1, sum_b, masked=False)
    n.quantised(1, 2, 3, axis=-1)


def _matmul(
    n: NodeView,
    b: TensorAxes,
    *,
    slot: int = 3,
    scales: tuple[int, ...] = (),
    zeros: tuple[int, int],
) -> None:
    """Declare a product with second operand `slot`; `scales` and zeros[1] may be vectors along it."""
    a = n.x(0)
    sum_b = multiply(n, a, b, n.y())
    single(n, zeros[0])
    _along(n, b[-1], *scales, zeros[1])
    n.contract(0, a.rank - 1, zero=zeros[0])
    n.contract(slot, sum_b, masked=False)


@op(
    "QGemm",
    domain=MICROSOFT,
    examples=[
        Example(
            IN + "{t9} = com.microsoft.QGemm<transB=1>({t1}, {f:0.03}, {u:120}, "
            "{z:12,C}, {q:12}, {o:12}, {k:12}, {f:0.1}, {u:125})" + OUT,
            rank=2,
        ),
        Example(
            IN + "{y} = com.microsoft.QGemm({t1}, {f:0.03}, {u:120}, {z:C,10}, {f:0.03}, {u:128})",
            rank=2,
        ),
    ],
)
def qgemm(n: NodeView) -> None:
    """As Gemm on (a - zero point) scale; rounded to the output's steps if it has any."""
    a, b, y = n.x(0), n.x(3), n.y()
    sum_a, sum_b = combine(n, a, b, y)
    if n.has(6):
        n.broadcast([n.x(6)], y)
    single(n, 1, 2, 7, 8)
    _along(n, b[1 - sum_b], 4, 5)
    n.contract(0, sum_a, zero=2)
    n.contract(3, sum_b, masked=False)
    n.quantised(3, 4, 5, axis=1 - sum_b)
