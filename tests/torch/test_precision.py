"""Mixed precision reaches all products of matrices, and a teacher is the same whatever runs it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import ModelProto, numpy_helper, parser

from onnxprune.core.graph import Graph
from onnxprune.torch import from_onnx
from onnxprune.torch.features import Feature
from onnxprune.torch.teachers import by_onnxruntime, by_pytorch

PRODUCTS = {
    "Conv": ("float[2, 4, 8, 8] x", "Conv(x, w)", (6, 4, 3, 3)),
    "Conv of sequences": ("float[2, 4, 8] x", "Conv(x, w)", (6, 4, 3)),
    "Conv of volumes": ("float[2, 4, 4, 4, 4] x", "Conv <strides = [2, 2, 2]> (x, w)", (6, 4, 3, 3, 3)),
    "ConvTranspose": ("float[2, 4, 8, 8] x", "ConvTranspose <group = 2> (x, w)", (4, 3, 3, 3)),
    "ConvTranspose of sequences": ("float[2, 4, 8] x", "ConvTranspose(x, w)", (4, 3, 3)),
    "Gemm": ("float[2, 4] x", "Gemm(x, w)", (4, 3)),
    "MatMul": ("float[2, 5, 4] x", "MatMul(x, w)", (4, 3)),
    "Einsum": ("float[2, 5, 4] x", 'Einsum <equation = "bij,jk->bik"> (x, w)', (4, 3)),
}  # fmt: skip


def product(name: str) -> ModelProto:
    """A network of one product."""
    x, call, shape = PRODUCTS[name]
    made = parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> agraph ({x}) => (float[] y) {{ y = {call} }}'
    )
    w = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    made.graph.initializer.append(numpy_helper.from_array(w, "w"))
    return made


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_computed_in_bfloat16(name: str) -> None:
    """Eight bits of mantissa: an error of 2^-9 in what goes in and in the result."""
    module = from_onnx(product(name))
    sizes = product(name).graph.input[0].type.tensor_type.shape.dim
    x = torch.randn([d.dim_value for d in sizes], generator=torch.Generator().manual_seed(0))

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = module(x)

    assert found.dtype == torch.bfloat16
    expected = module(x).detach()
    assert (found.float() - expected).abs().max() < 2**-6 * expected.abs().max()
    assert not torch.equal(found.float(), expected)


@pytest.fixture
def network() -> Graph:
    """Two outputs, the second first in the student's order."""
    made = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        agraph (float[N, 3, 8, 8] x) => (float[N, 5] y, int64[N] best)
        {
            a = Conv (x, w)
            b = Relu (a)
            c = GlobalAveragePool (b)
            y = Flatten (c)
            best = ArgMax <axis = 1, keepdims = 0> (y)
        }
    """)
    w = np.random.default_rng(1).standard_normal((5, 3, 3, 3)).astype(np.float32)
    made.graph.initializer.append(numpy_helper.from_array(w, "w"))
    return Graph.from_model(made)


def test_a_teacher_says_the_same_whatever_runs_it(network: Graph) -> None:
    x = np.random.default_rng(2).standard_normal((16, 3, 8, 8)).astype(np.float32)
    ends = [Feature("b", {1: np.array([0, 2, 3])})]
    cpu, order = torch.device("cpu"), ["best", "y"]

    expected = by_onnxruntime(network, order, ends, "CPUExecutionProvider", cpu)({"x": x})
    found = by_pytorch(network, order, ends, cpu, mixed=False)({"x": x})
    mixed = by_pytorch(network, order, ends, cpu, mixed=True)({"x": x})

    assert list(expected) == list(found) == list(mixed) == ["best", "y", "b"]
    assert expected["b"].shape == (16, 3, 6, 6)
    assert torch.equal(expected["best"], found["best"])
    for name in ("y", "b"):
        assert mixed[name].dtype == torch.float32
        assert not mixed[name].requires_grad
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)
        gap = (mixed[name] - expected[name]).abs().max()
        assert 0 < gap < 2**-6 * expected[name].abs().max()
