"""Patches times weights are the operator's output; positions depend on the samples alone."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnxruntime
import pytest
from onnx import ModelProto, numpy_helper

from onnxprune.core.declared import Linear
from onnxprune.core.graph import Array, Graph
from onnxprune.core.linear import weight_matrices
from onnxprune.core.patches import (
    outputs_at,
    patches,
    row_width,
    sample_keys,
    sample_positions,
    spatial_shape,
)
from onnxprune.structure.dependency import analyse

RTOL, ATOL = 1e-4, 1e-4  # float32 sums of some hundred products in another order


def run(model: ModelProto, x: Array) -> Array:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (y,) = session.run(None, {"x": x})
    return np.asarray(y)


def with_weights(text: str, rng: np.random.Generator, **shapes: tuple[int, ...]) -> ModelProto:
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>\n' + text)
    for name, shape in shapes.items():
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def the_linear(model: ModelProto) -> tuple[Graph, Linear]:
    analysis = analyse(Graph.from_model(model))
    (linear,) = analysis.linears()
    return analysis.graph, linear


def assert_reproduced(model: ModelProto, x: Array, rows: int) -> None:
    """W @ patch + b is what onnxruntime computes at the sampled positions."""
    graph, linear = the_linear(model)
    expected = run(model, x)
    positions = sample_positions(linear, x.shape, rows, sample_keys({"x": x}, len(x)))
    rows_read = patches(x, linear, positions)
    weight = weight_matrices(graph.weights[linear.weight].array, linear)

    assert rows_read.shape == (linear.groups, positions.size, row_width(linear, x.shape))
    found = np.einsum("gqp,grp->rgq", weight, rows_read).reshape(positions.size, -1)
    if linear.bias is not None:
        found = found + graph.weights[linear.bias].array
    np.testing.assert_allclose(found, outputs_at(expected, linear, positions), RTOL, ATOL)


@pytest.mark.parametrize("seed", range(24))
def test_convolution_of_random_geometry(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rank = 1 + seed % 3
    groups = int(rng.choice([1, 1, 2, 4]))
    inner, outer = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    kernel = tuple(int(k) for k in rng.integers(1, 4, rank))
    strides, dilations = (tuple(int(v) for v in rng.integers(1, 3, rank)) for _ in range(2))
    pads = tuple(int(v) for v in rng.integers(0, 3, 2 * rank))  # begins and ends differ
    sizes = tuple(int(v) for v in rng.integers(6, 10, rank))
    dims = ",".join(str(s) for s in (groups * inner, *sizes))
    free = ",".join("HWD"[:rank])

    def joined(values: tuple[int, ...]) -> str:
        return "[" + ",".join(map(str, values)) + "]"

    model = with_weights(
        f"net (float[N,{dims}] x) => (float[N,O,{free}] y) {{ y = Conv<group={groups}, "
        f"strides={joined(strides)}, dilations={joined(dilations)}, pads={joined(pads)}>(x, w, b) }}",
        rng,
        w=(groups * outer, inner, *kernel),
        b=(groups * outer,),
    )
    x = rng.standard_normal((3, groups * inner, *sizes)).astype(np.float32)
    _, linear = the_linear(model)

    assert spatial_shape(linear, x.shape) == run(model, x).shape[2:]
    assert_reproduced(model, x, rows=int(rng.integers(1, 40)))


@pytest.mark.parametrize("where", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_automatic_padding(where: str, rng: np.random.Generator) -> None:
    model = with_weights(
        f"net (float[N,2,7,8] x) => (float[N,3,H,W] y) "
        f'{{ y = Conv<auto_pad="{where}", strides=[2,2]>(x, w) }}',
        rng,
        w=(3, 2, 3, 2),
    )
    assert_reproduced(model, rng.standard_normal((4, 2, 7, 8)).astype(np.float32), 9)


@pytest.mark.parametrize(
    ("text", "weight", "shape"),
    [
        ("net (float[N,6] x) => (float[N,5] y) { y = MatMul(x, w) }", (6, 5), (7, 6)),
        ("net (float[N,9,6] x) => (float[N,9,5] y) { y = MatMul(x, w) }", (6, 5), (4, 9, 6)),
        ("net (float[N,2,9,6] x) => (float[N,2,9,5] y) { y = MatMul(x, w) }", (6, 5), (4, 2, 9, 6)),
        ("net (float[N,6] x) => (float[N,5] y) { y = Gemm<transB=1>(x, w) }", (5, 6), (7, 6)),
        ("net (float[6,N] x) => (float[N,5] y) { y = Gemm<transA=1>(x, w) }", (6, 5), (6, 7)),
    ],
)
def test_dense_layouts(
    text: str, weight: tuple[int, ...], shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    model = with_weights(text, rng, w=weight)
    graph, linear = the_linear(model)
    x = rng.standard_normal(shape).astype(np.float32)
    samples = shape[1 - linear.x_axis] if len(shape) == 2 else shape[0]
    positions = sample_positions(linear, shape, 5, np.arange(samples, dtype=np.uint64))
    found = (
        patches(x, linear, positions)[0] @ weight_matrices(graph.weights["w"].array, linear)[0].T
    )

    np.testing.assert_allclose(found, outputs_at(run(model, x), linear, positions), RTOL, ATOL)


def conv(size: int = 16) -> Linear:
    model = with_weights(
        f"net (float[N,2,{size},{size}] x) => (float[N,3,H,W] y) {{ y = Conv<pads=[1,1,1,1]>(x, w) }}",
        np.random.default_rng(0),
        w=(3, 2, 3, 3),
    )
    return the_linear(model)[1]


def test_positions_follow_the_sample_not_its_place(rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 2, 16, 16)).astype(np.float32)
    order = rng.permutation(6)
    linear = conv()

    def drawn(values: Array) -> Array:
        return sample_positions(linear, values.shape, 8, sample_keys({"x": values}, len(values)))

    np.testing.assert_array_equal(drawn(x)[order], drawn(x[order]))
    np.testing.assert_array_equal(drawn(x)[2:3], drawn(x[2:3]))
    assert len({tuple(row) for row in drawn(x)}) == 6, "samples are read at different places"


def test_positions_are_spread_and_never_twice() -> None:
    keys = np.arange(50, dtype=np.uint64)
    linear = conv()
    positions = sample_positions(linear, (50, 2, 16, 16), 32, keys)

    assert positions.shape == (50, 32)
    np.testing.assert_array_equal(positions // 8, np.broadcast_to(np.arange(32), (50, 32)))
    assert len(np.unique(positions)) == 256, "every output position is read by some sample"
    assert sample_positions(linear, (50, 2, 16, 16), 999, keys).shape == (50, 256)


def test_entries_of_one_sample_share_its_rows() -> None:
    """Windows or frames: several entries of the first axis belong to one sample."""
    keys = np.arange(3, dtype=np.uint64)
    positions = sample_positions(conv(), (12, 2, 16, 16), 32, keys)

    assert positions.shape == (12, 8)
    assert len({tuple(row) for row in positions}) == 12


def test_keys_depend_on_values_and_seed(rng: np.random.Generator) -> None:
    feeds: dict[str, Array] = {
        "x": rng.standard_normal((4, 5)).astype(np.float32),
        "once": np.ones(3),
    }
    keys = sample_keys(feeds, 4)

    assert len(set(keys.tolist())) == 4
    assert not np.intersect1d(keys, sample_keys(feeds, 4, seed=1)).size
