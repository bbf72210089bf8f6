"""A network with two blocks that CKA sees through: they do next to nothing, or turn the stream."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto

from tests.handmade import handmade

WIDTH, CLASSES = 10, 5
PLANTED = ("s1", "s3")  # nothing of note, and a rotation behind which only the head reads


def planted(rng: np.random.Generator) -> ModelProto:
    """Strong blocks 0 and 2, and two that CKA sees through; data in, scores of classes out."""

    def dense(*shape: int, scale: float = 1.0) -> Any:
        return (scale * rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    turn = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]
    weights: dict[str, Any] = {"w0": dense(WIDTH, WIDTH), "w9": dense(WIDTH, CLASSES)}
    for i in (0, 1, 2):
        weights |= {f"a{i}": dense(WIDTH, 24, scale=3.0), f"b{i}": dense(24, WIDTH, scale=3.0)}
    weights["b1"] *= np.float32(1e-5)
    weights["q"] = (turn - np.eye(WIDTH)).astype(np.float32)
    blocks = "\n".join(
        f"""h{i} = MatMul({x}, a{i})
        r{i} = Relu(h{i})
        c{i} = MatMul(r{i}, b{i})
        s{i} = Add({x}, c{i})"""
        for i, x in enumerate(["x", "s0", "s1"])
    )
    return handmade(
        f"""(float[N,{WIDTH}] u) => (float[N,{CLASSES}] y) {{
            x = MatMul(u, w0)
            {blocks}
            c3 = MatMul(s2, q)
            s3 = Add(s2, c3)
            y = MatMul(s3, w9)
        }}""",
        **weights,
    )  # fmt: skip
