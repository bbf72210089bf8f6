"""Surgery: what their tests share."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from onnxprune.core.analysis import Analysis
from onnxprune.passes.surgery.channels import remove_channels
from tests.handmade import groups_of, handmade, ints


def without(analysis: Analysis, tensor: str, *positions: int) -> ModelProto:
    """The model without the units that own these positions of a weight's first axis."""
    units = [
        unit
        for group in groups_of(analysis, tensor)
        for member in group.members
        if (member.tensor, member.axis) == (tensor, 0)
        for unit, owned in zip(group.units, member.index, strict=True)
        if set(owned.tolist()) <= set(positions)
    ]
    return remove_channels(analysis.mask(np.array(units))).to_model()


def only(model: ModelProto, op_type: str) -> onnx.NodeProto:
    nodes: list[onnx.NodeProto] = [n for n in model.graph.node if n.op_type == op_type]

    assert len(nodes) == 1
    return nodes[0]


def value(model: ModelProto, name: str) -> list[int]:
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    values: list[int] = onnx.numpy_helper.to_array(tensor).tolist()
    return values


def option_a(opset: int) -> ModelProto:
    """A residual block that doubles the channels: x[:, :, ::2, ::2] between two new ones each side."""
    if opset >= 11:
        pad, slices = "Pad(s, pads)", "Slice(a, starts, ends, axes, steps)"
        constants: dict[str, Any] = {
            "pads": ints(0, 2, 0, 0, 0, 2, 0, 0), "starts": ints(0, 0), "ends": ints(99, 99),
            "axes": ints(2, 3), "steps": ints(2, 2),
        }  # fmt: skip
    else:
        pad, slices = (
            "Pad<pads=[0,2,0,0,0,2,0,0]>(s)",
            "MaxPool<kernel_shape=[1,1], strides=[2,2]>(a)",
        )
        constants = {}
    return handmade(
        f"""(float[N,3,8,8] u) => (float[N,2] y) {{
            a = Conv(u, stem, b1)
            s = {slices}
            short = {pad}
            b = Conv<pads=[1,1,1,1], strides=[2,2]>(a, w1, b2)
            c = Relu(b)
            d = Conv<pads=[1,1,1,1]>(c, w2, b3)
            e = Add(short, d)
            f = Relu(e)
            g = GlobalAveragePool(f)
            h = Flatten(g)
            y = Gemm<transB=1>(h, w3, b4)
        }}""",
        opset=opset, stem=(4, 3, 1, 1), b1=(4,), w1=(8, 4, 3, 3), b2=(8,), w2=(8, 8, 3, 3), b3=(8,),
        w3=(2, 8), b4=(2,), **constants,
    )  # fmt: skip


def sliced(start: int, end: int, step: int, *, count: int, opset: int = 18) -> ModelProto:
    return handmade(
        """(float[N,3,4,4] u) => (float[N,2,4,4] y) {
            a = Conv(u, w1, b1)
            b = Slice(a, start, end, axis, step)
            y = Conv(b, w2)
        }""",
        opset=opset, w1=(8, 3, 1, 1), b1=(8,), w2=(2, count, 1, 1), start=ints(start), end=ints(end),
        axis=ints(1), step=ints(step),
    )  # fmt: skip
