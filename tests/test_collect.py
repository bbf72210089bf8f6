"""The calibration run: right figures, whatever the batches and the order, in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping

import numpy as np
import onnx.parser
import pytest
from onnx import ModelProto, helper, numpy_helper

from onnxprune.core.analysis import Analysis
from onnxprune.core.contracts import COLLECTORS, Samples
from onnxprune.core.errors import DataError, OnnxPruneError
from onnxprune.core.graph import Array, Graph
from onnxprune.core.patches import patches, sample_positions
from onnxprune.core.stats import Statistics
from onnxprune.core.stream import Probes, stream
from onnxprune.discover import discover
from onnxprune.pipeline.collect import collect
from onnxprune.structure.dependency import analyse
from tests.networks import NETWORKS, bottlenecks

discover()
EVERYTHING = tuple(COLLECTORS)
# hold what samples gave, as they say
KEPT = {"maps", "summaries", "contributions", "gradients", "curvature"}
each_network = pytest.mark.parametrize("name", list(NETWORKS))


def samples_of(arrays: Mapping[str, Array]) -> Samples:
    count = len(next(iter(arrays.values())))
    return Samples(count, lambda a, b: {name: array[a:b] for name, array in arrays.items()})


def drawn(graph: Graph, count: int, rng: np.random.Generator) -> dict[str, Array]:
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim[1:]] for v in graph.inputs}
    return {name: rng.standard_normal((count, *s)).astype(np.float32) for name, s in shapes.items()}


def captured(analysis: Analysis, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return every tensor that some linear operator reads, whole."""
    names = tuple(dict.fromkeys(linear.x for linear in analysis.linears()))
    samples = samples_of(arrays)
    (step,) = stream(analysis.graph, [Probes(names)], samples, batch=samples.count)
    return dict(step.values)


def assert_close(found: Statistics, expected: Statistics, rtol: float) -> None:
    """Compare all figures; covariances relative to the spread of their two columns."""
    assert found.samples == expected.samples
    assert found.moments.keys() == expected.moments.keys()
    assert found.second.keys() == expected.second.keys()
    for key, moments in found.moments.items():
        other = expected.moments[key]
        assert moments.count == other.count
        scale = np.sqrt(other.square.max())
        for field in ("mean", "square", "fluctuation"):
            np.testing.assert_allclose(
                getattr(moments, field),
                getattr(other, field),
                rtol,
                rtol * max(scale, scale**2),
                err_msg=field,
            )
    for node, second in found.second.items():
        other_second = expected.second[node]
        spread = np.sqrt(np.einsum("gpp->gp", other_second.covariance)) + 1e-3
        gap = np.abs(second.covariance - other_second.covariance)
        assert second.rows == other_second.rows
        assert (gap <= rtol * spread[:, :, None] * spread[:, None, :] + 1e-12).all()
        np.testing.assert_allclose(second.mean, other_second.mean, rtol, rtol)


@each_network
def test_moments_are_those_of_the_tensors(name: str, rng: np.random.Generator) -> None:
    analysis = analyse(NETWORKS[name].graph())
    arrays = drawn(analysis.graph, 37, rng)
    found = collect(analysis, samples_of(arrays), {"moments"}, batch=8).moments
    tensors = captured(analysis, arrays)

    assert found.keys() == {(linear.x, linear.x_axis) for linear in analysis.linears()}
    for (tensor, axis), moments in found.items():
        x = np.moveaxis(tensors[tensor].astype(np.float64), axis, 1).reshape(
            37, tensors[tensor].shape[axis], -1
        )
        assert moments.count == x.shape[0] * x.shape[2]
        np.testing.assert_allclose(moments.mean, x.mean((0, 2)), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(moments.square, (x**2).mean((0, 2)), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(moments.fluctuation, x.mean(2).var(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(moments.norm, np.sqrt((x**2).sum((0, 2))), rtol=1e-5, atol=1e-5)


@each_network
def test_second_moments_are_those_of_the_patches(name: str, rng: np.random.Generator) -> None:
    analysis = analyse(NETWORKS[name].graph())
    arrays = drawn(analysis.graph, 37, rng)
    found = collect(analysis, samples_of(arrays), {"second"}, rows=10_000, batch=8)
    tensors = captured(analysis, arrays)

    assert found.second.keys() == {linear.node for linear in analysis.linears()}
    for linear in analysis.linears():
        x = tensors[linear.x]
        everywhere = sample_positions(linear, x.shape, 10_000, np.zeros(37, np.uint64))
        rows = patches(x, linear, everywhere).astype(np.float64)
        second = found.second[linear.node]
        spread = rows.std(axis=1)
        assert second.rows == rows.shape[1]
        np.testing.assert_allclose(second.mean, rows.mean(axis=1), rtol=1e-5, atol=1e-5)
        for g in range(linear.groups):
            gap = np.abs(second.covariance[g] - np.cov(rows[g].T, bias=True))
            assert (gap <= 1e-5 * (1e-3 + np.outer(spread[g], spread[g]))).all()


@each_network
def test_neither_batches_nor_order_matter(name: str, rng: np.random.Generator) -> None:
    analysis = analyse(NETWORKS[name].graph())
    arrays = drawn(analysis.graph, 41, rng)
    mixed = rng.permutation(41)
    whole = collect(analysis, samples_of(arrays), EVERYTHING, rows=7, batch=41)

    assert_close(collect(analysis, samples_of(arrays), EVERYTHING, rows=7, batch=1), whole, 1e-6)
    assert_close(collect(analysis, samples_of(arrays), EVERYTHING, rows=7), whole, 1e-6)
    shuffled = samples_of({key: array[mixed] for key, array in arrays.items()})
    # other rows share a block, whose product is in float32
    assert_close(collect(analysis, shuffled, EVERYTHING, rows=7, batch=8), whole, 1e-5)


def test_large_means_do_not_cancel(rng: np.random.Generator) -> None:
    """A spread of 1e-2 about a mean of 100 survives float32 products."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> '
        "net (float[N,4,9,9] x) => (float[N,4,H,W] y) { y = Conv(x, w) }"
    )
    model.graph.initializer.append(
        numpy_helper.from_array(rng.standard_normal((4, 4, 1, 1)).astype(np.float32), "w")
    )
    x = (100 + 0.01 * rng.standard_normal((64, 4, 9, 9))).astype(np.float32)
    (second,) = collect(
        analyse(Graph.from_model(model)), samples_of({"x": x}), {"second"}, rows=99
    ).second.values()
    rows = x.astype(np.float64).transpose(0, 2, 3, 1).reshape(-1, 4)

    np.testing.assert_allclose(
        second.covariance[0], np.cov(rows.T, bias=True), rtol=1e-3, atol=1e-8
    )


def test_memory_does_not_grow_with_samples() -> None:
    analysis = analyse(bottlenecks((1, 1), (16, 32), 32).graph())

    def peak(count: int) -> int:
        def read(start: int, stop: int) -> dict[str, Array]:
            rows = [
                np.random.default_rng(i).standard_normal((3, 32, 32), np.float32)
                for i in range(start, stop)
            ]
            return {"x": np.stack(rows)}

        tracemalloc.start()
        collect(analysis, Samples(count, read), set(EVERYTHING) - KEPT, rows=8, batch=8)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(16)  # what is imported and cached on first use
    assert peak(400) < 1.1 * peak(40)


def sequence(opset: int, kind: str = "float") -> ModelProto:
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]>
    net ({kind}[N,T,12] x) => ({kind}[N,T,5] y) {{
        a = MatMul(x, w1)
        b = Relu(a)
        y = MatMul(b, w2)
    }}"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    dtype = helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    for name, shape in {"w1": (12, 16), "w2": (16, 5)}.items():
        model.graph.initializer.append(
            numpy_helper.from_array(rng.standard_normal(shape).astype(dtype), name)
        )
    return model


@pytest.mark.parametrize("opset", [13, 17, 18, 20])
@pytest.mark.parametrize("kind", ["float", "double", "float16"])
def test_channels_last_at_every_opset_and_type(
    opset: int, kind: str, rng: np.random.Generator
) -> None:
    """ReduceMean takes its axes as an attribute before opset 18; half floats are squared in float32."""
    model = sequence(opset, kind)
    dtype = helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    x = (30 * rng.standard_normal((9, 7, 12))).astype(dtype)
    analysis = analyse(Graph.from_model(model))
    found = collect(analysis, samples_of({"x": x}), EVERYTHING, rows=99, batch=4)

    rows = np.maximum(captured(analysis, {"x": x})["b"].astype(np.float64), 0).reshape(-1, 16)
    assert found.moments["b", 2].count == 63
    rtol = 1e-3 if kind == "float16" else 1e-5  # what is probed decides where it rounds to halves
    np.testing.assert_allclose(found.moments["b", 2].square, (rows**2).mean(0), rtol)
    second = found.second[2].covariance[0]
    np.testing.assert_allclose(
        second, np.cov(rows.T, bias=True), rtol=1e-3, atol=1e-4 * second.max()
    )


def test_operators_that_read_alike_share_their_matrix() -> None:
    analysis = analyse(bottlenecks((1, 1), (8, 16), 32).graph())
    rng = np.random.default_rng(0)
    second = collect(analysis, samples_of(drawn(analysis.graph, 4, rng)), {"second"}).second
    by_weight = {linear.weight: second[linear.node] for linear in analysis.linears()}

    assert by_weight["s0b0a"] is by_weight["s0b0d"]
    assert by_weight["s1b0a"] is not by_weight["s1b0d"], "the shortcut reads every second position"


def test_wide_operators_are_skipped_with_a_reason(rng: np.random.Generator) -> None:
    analysis = analyse(NETWORKS["chain"].graph())
    found = collect(analysis, samples_of(drawn(analysis.graph, 8, rng)), {"second"}, widest=100)

    assert [linear.node in found.second for linear in analysis.linears()] == [True, False, True]
    assert list(found.skipped.values()) == [
        "it reads 144 values per output position, more than 100"
    ]


def test_fixed_batch_and_progress(rng: np.random.Generator) -> None:
    model = NETWORKS["chain"].model()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 4
    free = analyse(NETWORKS["chain"].graph())
    fixed = analyse(Graph.from_model(model))
    arrays = drawn(fixed.graph, 12, rng)
    samples = samples_of(arrays)
    four = Samples(samples.count, samples.read, batch=4)
    calls: list[tuple[str, int, int]] = []

    found = collect(fixed, four, EVERYTHING, progress=lambda *call: calls.append(call))

    assert_close(found, collect(free, samples, EVERYTHING), 1e-6)
    assert [call[1:] for call in calls] == [(4, 12), (8, 12), (12, 12)]


def test_random_data_stays_marked(rng: np.random.Generator) -> None:
    analysis = analyse(NETWORKS["dense"].graph())
    samples = samples_of(drawn(analysis.graph, 4, rng))
    marked = Samples(samples.count, samples.read, random=True)

    assert collect(analysis, marked, {"moments"}).random
    assert not collect(analysis, samples, {"moments"}).random


def test_nothing_to_calibrate_on_is_refused() -> None:
    analysis = analyse(NETWORKS["dense"].graph())

    with pytest.raises(DataError, match="there are no samples"):
        collect(analysis, Samples(0, lambda _a, _b: {}), {"moments"})
    with pytest.raises(OnnxPruneError, match="unknown statistic 'momnets': did you mean 'moments'"):
        collect(analysis, samples_of({"x": np.zeros((2, 10), np.float32)}), {"momnets"})


@pytest.mark.gpu
def test_on_a_gpu(rng: np.random.Generator) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("no CUDA provider")
    analysis = analyse(NETWORKS["residual"].graph())
    samples = samples_of(drawn(analysis.graph, 16, rng))

    there = collect(analysis, samples, EVERYTHING, rows=7, provider="CUDAExecutionProvider")

    assert_close(there, collect(analysis, samples, EVERYTHING, rows=7), 2e-3)  # TensorFloat32
