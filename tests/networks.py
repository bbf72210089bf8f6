"""Small networks as ONNX text, one per way in which channels can be coupled."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import onnx.parser
from onnx import ModelProto, numpy_helper

from onnxprune.core.graph import Graph

_HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'


@dataclasses.dataclass(frozen=True)
class Network:
    """A graph in ONNX text whose weights are drawn: name -> shape."""

    text: str
    shapes: Mapping[str, tuple[int, ...]]

    def model(self, seed: int = 0) -> ModelProto:
        """Return the network with random weights, no two alike."""
        rng = np.random.default_rng(seed)
        model = onnx.parser.parse_model(_HEAD + self.text)
        for name, shape in self.shapes.items():
            fan = math.prod(shape[1:]) or 1
            values = rng.standard_normal(shape) * math.sqrt(2 / fan)
            if name.endswith(("_scale", "_var")):
                values = rng.uniform(0.5, 1.5, shape)
            elif len(shape) == 1:
                values = 0.1 * rng.standard_normal(shape)
            model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        onnx.checker.check_model(model, full_check=True)
        return model

    def graph(self, seed: int = 0) -> Graph:
        """Return the network in our view."""
        return Graph.from_model(self.model(seed))


def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a BatchNormalization's weights."""
    return {f"{name}_{part}": (channels,) for part in ("scale", "bias", "mean", "var")}


NORMED = Network(  # BatchNormalization in every group
    """net (float[N,3,8,8] x) => (float[N,5] y) {
        a = Conv<pads=[1,1,1,1]>(x, w1)
        b = BatchNormalization(a, n_scale, n_bias, n_mean, n_var)
        c = Relu(b)
        d = Conv<strides=[2,2]>(c, w2)
        e = BatchNormalization(d, m_scale, m_bias, m_mean, m_var)
        f = Relu(e)
        g = GlobalAveragePool(f)
        h = Flatten(g)
        y = Gemm<transB=1>(h, w3, b3)
    }""",
    {
        "w1": (16, 3, 3, 3),
        **norm("n", 16),
        "w2": (12, 16, 3, 3),
        **norm("m", 12),
        "w3": (5, 12),
        "b3": (5,),
    },
)

NETWORKS = {
    "chain": Network(
        """net (float[N,3,8,8] x) => (float[N,5] y) {
            a = Conv<pads=[1,1,1,1]>(x, w1, b1)
            b = BatchNormalization(a, n_scale, n_bias, n_mean, n_var)
            c = Relu(b)
            d = Conv<strides=[2,2]>(c, w2, b2)
            e = Relu(d)
            f = GlobalAveragePool(e)
            g = Flatten(f)
            y = Gemm<transB=1>(g, w3, b3)
        }""",
        {"w1": (16, 3, 3, 3), "b1": (16,), **norm("n", 16), "w2": (12, 16, 3, 3), "b2": (12,),
         "w3": (5, 12), "b3": (5,)},
    ),
    "residual": Network(
        """net (float[N,3,8,8] x) => (float[N,5] y) {
            a = Conv<pads=[1,1,1,1]>(x, w1, b1)
            b = Relu(a)
            c = Conv<pads=[1,1,1,1]>(b, w2, b2)
            d = BatchNormalization(c, n_scale, n_bias, n_mean, n_var)
            e = Relu(d)
            f = Conv(e, w3, b3)
            g = Add(b, f)
            h = Relu(g)
            i = GlobalAveragePool(h)
            j = Flatten(i)
            y = Gemm(j, w4, b4)
        }""",
        {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (8, 16, 3, 3), "b2": (8,), **norm("n", 8),
         "w3": (16, 8, 1, 1), "b3": (16,), "w4": (16, 5), "b4": (5,)},
    ),
    "concat": Network(
        """net (float[N,3,8,8] x) => (float[N,5,8,8] y) {
            a = Conv<pads=[1,1,1,1]>(x, w1, b1)
            b = Relu(a)
            c = Conv<pads=[1,1,1,1]>(b, w2, b2)
            d = Relu(c)
            e = Concat<axis=1>(b, d)
            f = Conv(e, w3, b3)
            g = Relu(f)
            y = Conv(g, w4)
        }""",
        {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (12, 8, 3, 3), "b2": (12,), "w3": (16, 20, 1, 1),
         "b3": (16,), "w4": (5, 16, 1, 1)},
    ),
    "depthwise": Network(
        """net (float[N,3,8,8] x) => (float[N,5,8,8] y) {
            a = Conv(x, w1, b1)
            b = Clip(a)
            c = Conv<group=16, pads=[1,1,1,1]>(b, w2, b2)
            d = BatchNormalization(c, n_scale, n_bias, n_mean, n_var)
            e = Relu(d)
            y = Conv(e, w3, b3)
        }""",
        {"w1": (16, 3, 1, 1), "b1": (16,), "w2": (16, 1, 3, 3), "b2": (16,), **norm("n", 16),
         "w3": (5, 16, 1, 1), "b3": (5,)},
    ),
    "grouped": Network(
        """net (float[N,3,8,8] x) => (float[N,5,8,8] y) {
            a = Conv(x, w1, b1)
            b = Relu(a)
            c = Conv<group=4, pads=[1,1,1,1]>(b, w2, b2)
            d = Relu(c)
            y = Conv(d, w3, b3)
        }""",
        {"w1": (32, 3, 1, 1), "b1": (32,), "w2": (32, 8, 3, 3), "b2": (32,),
         "w3": (5, 32, 1, 1), "b3": (5,)},
    ),
    "flatten": Network(
        """net (float[N,3,6,6] x) => (float[N,5] y) {
            a = Conv(x, w1, b1)
            b = Relu(a)
            c = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b)
            d = Flatten(c)
            e = Gemm<transB=1>(d, w2, b2)
            f = Relu(e)
            y = Gemm(f, w3, b3)
        }""",
        {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (24, 32), "b2": (24,), "w3": (24, 5), "b3": (5,)},
    ),
    "dense": Network(
        """net (float[N,10] x) => (float[N,5] y) {
            a = MatMul(x, w1)
            b = Add(a, b1)
            c = Relu(b)
            d = MatMul(c, w2)
            e = Add(d, b2)
            f = Relu(e)
            y = MatMul(f, w3)
        }""",
        {"w1": (10, 32), "b1": (32,), "w2": (32, 20), "b2": (20,), "w3": (20, 5)},
    ),
}  # fmt: skip


def bottlenecks(blocks: tuple[int, ...], widths: tuple[int, ...], size: int) -> Network:
    """Return a ResNet of bottlenecks: `blocks` per stage, inner `widths` (outer is four times)."""
    shapes: dict[str, tuple[int, ...]] = {"stem": (widths[0], 3, 7, 7)}
    lines = ["s = Conv<strides=[2,2], pads=[3,3,3,3]>(x, stem)", "r = Relu(s)",
             "t0 = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r)"]  # fmt: skip
    now, wide = "t0", widths[0]
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
        for block in range(count):
            p, stride = f"s{stage}b{block}", 2 if stage and not block else 1
            shapes[f"{p}a"] = (width, wide, 1, 1)
            shapes[f"{p}b"] = (width, width, 3, 3)
            shapes[f"{p}c"] = (4 * width, width, 1, 1)
            lines += [
                f"{p}1 = Conv({now}, {p}a)", f"{p}2 = Relu({p}1)",
                f"{p}3 = Conv<strides=[{stride},{stride}], pads=[1,1,1,1]>({p}2, {p}b)",
                f"{p}4 = Relu({p}3)", f"{p}5 = Conv({p}4, {p}c)",
            ]  # fmt: skip
            if not block:
                shapes[f"{p}d"] = (4 * width, wide, 1, 1)
                lines.append(f"{p}6 = Conv<strides=[{stride},{stride}]>({now}, {p}d)")
            lines += [f"{p}7 = Add({p}5, {now if block else f'{p}6'})", f"{p}8 = Relu({p}7)"]
            now, wide = f"{p}8", 4 * width
    lines += [f"g = GlobalAveragePool({now})", "f = Flatten(g)"]
    lines += ["y = Gemm<transB=1>(f, head, head_bias)"]
    shapes |= {"head": (10, wide), "head_bias": (10,)}
    body = "\n".join(lines)
    return Network(f"net (float[N,3,{size},{size}] x) => (float[N,10] y) {{\n{body}\n}}", shapes)
