"""Graphs with a residual stream as ONNX text, and the proof that their blocks can be left out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxprune.core.analysis import Analysis
from onnxprune.core.blocks import Block
from onnxprune.core.contracts import SURGERIES
from onnxprune.core.graph import Graph
from onnxprune.proof.prove import Proof, prove
from onnxprune.structure.blocks import find_blocks
from onnxprune.structure.dependency import analyse
from tests.handmade import examined, handmade

NO_UNITS = np.empty(0, np.int64)
Spans = list[tuple[str, str]]


def spans(model: ModelProto, kind: str = "residual") -> Spans:
    """From where to where the blocks of a model go; joined ones left out."""
    blocks = find_blocks(examined(model))
    return [(b.x, b.y) for b in blocks if b.kind == kind and not b.parts]


def removed(analysis: Analysis, *blocks: Block) -> Graph:
    return SURGERIES["blocks"](analysis.mask(NO_UNITS, blocks))


def proved(
    graph: Graph, analysis: Analysis, blocks: Sequence[Block], units: Any = NO_UNITS
) -> Proof:
    mask = analysis.mask(units, tuple(blocks))
    return prove(graph, mask, SURGERIES["blocks"](mask))


def all_proved(model: ModelProto, *, moved: float = 1e-3) -> list[Block]:
    """Leave out every block by itself, any two, and all at once; prove it each time."""
    graph = Graph.from_model(model)
    analysis = analyse(graph)
    blocks = find_blocks(analysis)
    for some in [*((b,) for b in blocks), *itertools.combinations(blocks[:6], 2), tuple(blocks)]:
        assert proved(graph, analysis, some).moved > moved, [b.name for b in some]
    return blocks


def plain(body: str, *, ends: str = "y = MatMul(s, w9)", **weights: Any) -> ModelProto:
    """A stream x of shape (N, T, 8), the lines of `body` up to s, and a head."""
    given = {"w9": (8, 3), **weights}
    return handmade(
        f"""(float[N,T,8] u, float[N,T,T] mask, float[N,S,8] memory) => (float[N,T,3] y) {{
            x = MatMul(u, w0)
            {body}
            {ends}
        }}""",
        w0=(8, 8), **given,
    )  # fmt: skip


FEED_FORWARD = "a = MatMul(x, w1)\nb = Relu(a)\nc = MatMul(b, w2)\n"
TWO: dict[str, Any] = {"w1": (8, 12), "w2": (12, 8)}


FUSED = "{n} = LayerNormalization({x}, {n}s, {n}b)"
WRITTEN_OUT = """{n}m = ReduceMean<axes=[-1]>({x})
    {n}c = Sub({x}, {n}m)
    {n}p = Mul({n}c, {n}c)
    {n}v = ReduceMean<axes=[-1]>({n}p)
    {n}e = Add({n}v, tiny)
    {n}r = Sqrt({n}e)
    {n}d = Div({n}c, {n}r)
    {n}g = Mul({n}d, {n}s)
    {n} = Add({n}g, {n}b)"""
RMS = """{n}p = Mul({x}, {x})
    {n}v = ReduceMean<axes=[-1]>({n}p)
    {n}e = Add({n}v, tiny)
    {n}r = Sqrt({n}e)
    {n}d = Div({x}, {n}r)
    {n} = Mul({n}d, {n}s)"""
NORMS = {"fused": FUSED, "written out": WRITTEN_OUT, "rms": RMS}


def stack(norm: str, *, post: bool, depth: int = 2) -> ModelProto:
    """Feed-forward blocks: norm(x + b(x)), or x + b(norm(x)) and a norm at the end."""
    weights: dict[str, Any] = {"tiny": np.array(1e-5, np.float32)} if norm != FUSED else {}
    lines, now = [], "x"
    for i in range(depth):
        inner = now
        if not post:
            inner = f"n{i}"
            lines.append(norm.format(n=inner, x=now))
        lines += [
            f"a{i} = MatMul({inner}, v{i})",
            f"r{i} = Relu(a{i})",
            f"c{i} = MatMul(r{i}, w{i})",
        ]
        lines.append(f"s{i} = Add({now}, c{i})")
        now = f"s{i}"
        if post:
            lines.append(norm.format(n=f"n{i}", x=now))
            now = f"n{i}"
        weights |= {f"v{i}": (8, 12), f"w{i}": (12, 8)}
    if not post:
        lines.append(norm.format(n="final", x=now))
        now = "final"
    text = "\n".join(lines)
    norms = [f"{n}{part}" for n in ("final", *(f"n{i}" for i in range(depth))) for part in "sb"]
    weights |= {name: (8,) for name in norms if f" {name})" in text or f" {name}," in text}
    return handmade(
        f"""(float[N,T,8] u) => (float[N,T,3] y) {{
            x = MatMul(u, w_in)
            {text}
            y = MatMul({now}, w_out)
        }}""",
        opset=17, w_in=(8, 8), w_out=(8, 3), **weights,
    )  # fmt: skip


def long_skip() -> ModelProto:
    """A sum of x and a region with two residual blocks, as super-resolution networks have it."""
    return handmade(
        """(float[N,3,H,W] u) => (float[N,3,H,W] y) {
            x = Conv<pads=[1,1,1,1]>(u, w1, b1)
            a = Conv<pads=[1,1,1,1]>(x, w2)
            b = Relu(a)
            c = Add(x, b)
            d = Conv<pads=[1,1,1,1]>(c, w3)
            e = Add(c, d)
            f = Conv<pads=[1,1,1,1]>(e, w4, b4)
            s = Add(f, x)
            y = Conv(s, w5)
        }""",
        w1=(6, 3, 3, 3), b1=(6,), w2=(6, 6, 3, 3), w3=(6, 6, 3, 3), w4=(6, 6, 3, 3), b4=(6,),
        w5=(3, 6, 1, 1),
    )  # fmt: skip
