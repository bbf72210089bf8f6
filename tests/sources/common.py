"""Sample data: what their tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.parser

from onnxprune.core.graph import Array, Graph


def graph(signature: str, body: str = "y = Identity(x)") -> Graph:
    text = (
        f'<ir_version: 8, opset_import: ["" : 17]> net ({signature}) => (float[N] y) {{ {body} }}'
    )
    return Graph.from_model(onnx.parser.parse_model(text))


ONE = graph("float[N,3,4,5] x")


TWO = graph("float[N,3] x, int64[N] index")


FIXED = graph("float[4,3] x")


def npz(path: Path, *, compressed: bool = False, **arrays: Array) -> str:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)  # type: ignore[arg-type]
    return str(path)
