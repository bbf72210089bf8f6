"""Control flow: what their tests share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto

from onnxprune.core.scopes import bodies
from onnxprune.passes.surgery.channels import remove_channels
from tests.examples import random_mask
from tests.handmade import examined, handmade


def half(model: ModelProto, ratio: float = 0.5) -> ModelProto:
    """The model without half of every group, as it is written and read again."""
    mask = random_mask(examined(model), np.random.default_rng(0), ratio)
    return onnx.load_model_from_string(remove_channels(mask).to_model().SerializeToString())


def reasons(model: ModelProto) -> dict[str, str]:
    return {f.tensor: f.reason for f in examined(model).frozen}


def branches(model: ModelProto) -> dict[str, GraphProto]:
    """The bodies in a model, by their names."""

    def within(nodes: list[NodeProto]) -> Iterator[GraphProto]:
        for node in nodes:
            for body in bodies(node):
                yield body
                yield from within(list(body.node))

    return {body.name: body for body in within(list(model.graph.node))}


CHOICE = """(float[N,3,4,4] u, bool flag) => (float[N,2,4,4] y) {
    a = Conv(u, w1, b1)
    b = If(flag) <
        then_branch = yes () => (float[N,6,4,4] t) { t = Relu(a) },
        else_branch = no () => (float[N,6,4,4] e) { d = Conv(a, w2) e = Mul(d, gain) }
    >
    y = Conv(b, w3)
}"""


def choice() -> ModelProto:
    return handmade(
        CHOICE, w1=(6, 3, 1, 1), b1=(6,), gain=(6, 1, 1), w2=(6, 6, 1, 1), w3=(2, 6, 1, 1)
    )
