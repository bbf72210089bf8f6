"""Operators as the rules' examples do not show them: older opsets, rarer attributes, odd shapes.

A line of `variants.txt` has the opset, the shape of `x` (float), and ONNX text from `x` to `y`; in
braces are constants, `{2,3}` random floats of that shape, `{i:1,2}` integers, `{f:0.5}` floats.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

Array = npt.NDArray[Any]
_CONSTANT = re.compile(r"\{(?:([if]):)?([^{}]*)\}")

TABLE = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Variant:
    """One line of the table."""

    opset: int
    shape: tuple[int, ...]
    text: str

    def model(self) -> ModelProto:
        """The nodes as a model from `x` to all that is made and not read."""
        rng = np.random.default_rng(len(self.text))
        weights: dict[str, Array] = {}

        def held(match: re.Match[str]) -> str:
            items = [item for item in match[2].split(",") if item]
            name = f"c{len(weights)}"
            if match[1]:
                dtype = np.int64 if match[1] == "i" else np.float32
                value = np.array([float(item) for item in items], dtype)
                scalar = len(items) == 1 and _is_scalar(self.text, match)
                weights[name] = value[0] if scalar else value
            else:
                weights[name] = rng.standard_normal([int(i) for i in items]).astype(np.float32)
            return name

        body = _CONSTANT.sub(
            lambda m: m[0] if m.string[m.start() - 2] == "]" else held(m), self.text
        )
        nodes = list(parser.parse_graph(f"g () => () {{\n{body.replace('|', chr(10))}\n}}").node)
        read = {name for node in nodes for name in node.input}
        made = [name for node in nodes for name in node.output if name not in read]
        graph = helper.make_graph(
            nodes,
            "variant",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_empty_tensor_value_info(name) for name in made],
            [numpy_helper.from_array(np.asarray(v), name) for name, v in weights.items()],
        )
        imports = [helper.make_opsetid("", self.opset)]
        version = helper.find_min_ir_version_for(imports)
        return helper.make_model(graph, opset_imports=imports, ir_version=max(version, 8))


_SCALARS = ("Clip", "Range", "Gather(", "Trilu", "OneHot", "CumSum", "SequenceAt")


def _is_scalar(text: str, match: re.Match[str]) -> bool:
    """Whether one number stands for no axis: where the operator before it wants that."""
    before = text[: match.start()].rsplit("= ", 1)[-1]
    return before.startswith(_SCALARS)


def _read() -> list[Variant]:
    found = []
    for line in filter(None, TABLE.splitlines()):
        opset, shape, text = line.split(None, 2)
        found.append(Variant(int(opset), tuple(map(int, shape.split(","))), text))
    return found


VARIANTS = _read()
