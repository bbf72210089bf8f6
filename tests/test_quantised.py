"""Quantised graphs: what integers mean to criteria, which axes operators write, blocks, and the proof."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.core.analysis import Analysis
from onnxprune.core.contracts import CRITERIA, Evidence
from onnxprune.core.cost import CostModel
from onnxprune.core.graph import Graph
from onnxprune.core.quantised import parameters_each
from onnxprune.core.rules import OP_RULES
from onnxprune.core.shapes import instantiate
from onnxprune.passes.surgery.channels import remove_channels
from onnxprune.proof.oracle import masked_graph
from onnxprune.proof.prove import QUANTISED_TOLERANCE, TOLERANCE, Proof, is_quantised, prove
from onnxprune.structure.dependency import analyse
from tests.examples import example_model, random_mask

# Measured: 0 for integers alone (processors without VNNI saturate sums of pairs of int8 products),
# 6e-3 where float sums lie between roundings, 1e-7 where only the range is one.
FILES = {
    "cifar10_tinycnn_qlinear_int8": QUANTISED_TOLERANCE,
    "imagenet_mobilenetv2_qdq": QUANTISED_TOLERANCE,
    "imagenet_mobilenetv2_dynquant": TOLERANCE,
}


def proved(graph: Graph, analysis: Analysis, ratio: float = 0.4, seed: int = 0) -> Proof:
    """The proof of removing a random share of every group."""
    mask = random_mask(analysis, np.random.default_rng(seed), ratio)
    return prove(graph, mask, remove_channels(mask))


@pytest.mark.parametrize("name", list(FILES))
def test_published_file(name: str, data_dir: Path) -> None:
    graph = Graph.from_model(onnx.load(data_dir / "onnx" / f"{name}.onnx"))
    analysis = analyse(graph)

    proof = proved(graph, analysis)

    assert is_quantised(graph)
    assert {m.role for g in analysis.groups for m in g.members[:1]} == {"produces"}
    assert [r.opaque for r in analysis.records if r.opaque] == []
    assert [f.tensor for f in analysis.frozen if f.reason.startswith("graph output")]
    assert proof.gap <= FILES[name]
    assert proof.moved > 10 * QUANTISED_TOLERANCE


def test_integers_are_scored_like_the_values_they_stand_for(data_dir: Path) -> None:
    real, integer = (
        analyse(Graph.from_model(onnx.load(data_dir / "onnx" / f"{name}.onnx")))
        for name in ("cifar10_tinycnn", "cifar10_tinycnn_qlinear_int8")
    )
    criterion = CRITERIA["l2"]

    rankings = zip(
        criterion.rank(Evidence(real, None)), criterion.rank(Evidence(integer, None)), strict=True
    )
    for group, twin, (expected, found) in zip(real.groups, integer.groups, rankings, strict=True):
        assert f"{group.name}_quantized" == twin.name
        assert np.allclose(found.scores, expected.scores, rtol=0, atol=0.02)  # their mean is 1


@pytest.mark.parametrize("name", ["imagenet_mobilenetv2_qdq", "imagenet_mobilenetv2_dynquant"])
def test_parameters_are_those_of_the_real_model(name: str, data_dir: Path) -> None:
    analysis = analyse(Graph.from_model(onnx.load(data_dir / "onnx" / f"{name}.onnx")))
    instance = instantiate(analysis.graph, OP_RULES.shape_functions, sizes=(1, 1, 224))
    assert instance is not None
    cost = CostModel(analysis, instance)

    assert cost.params(cost.lengths()) == 3_487_816  # MobileNetV2, BatchNormalization folded
    assert cost.macs(cost.lengths()) == 300_774_272


def test_parameters_packed_into_bytes_are_counted_one_by_one() -> None:
    rule = next(r for r in OP_RULES.all() if r.op_type == "MatMulNBits")
    analysis = analyse(Graph.from_model(example_model(rule.examples[0], 21)))
    node = next(n for n in analysis.graph.nodes if n.op_type == "MatMulNBits")
    each = parameters_each(analysis.graph, analysis.records)

    assert [each[name] for name in node.input[1:]] == [2.0, 0.0, 0.0]


def blocked(bits: int, columns: int = 8) -> ModelProto:
    """Gemm, Gemm with weights of `bits` in blocks of 4 columns, Relu, Gemm."""
    rng = np.random.default_rng(0)
    kind = {4: TensorProto.INT4, 8: TensorProto.INT8}[bits]
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    limit = 2 ** (bits - 1)
    weights = {
        "first": rng.standard_normal((columns, 6)).astype(np.float32),
        "q": rng.integers(-limit, limit, (12, columns)).astype(dtype),
        "scale": (rng.random((12, columns // 4)) / limit).astype(np.float32) + 0.01,
        "zero": rng.integers(-2, 3, (12, columns // 4)).astype(dtype),
        "last": rng.standard_normal((3, 12)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "first"], ["h"], transB=1),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["w"], axis=1, block_size=4),
        helper.make_node("Gemm", ["h", "w"], ["g"], transB=1),
        helper.make_node("Relu", ["g"], ["r"]),
        helper.make_node("Gemm", ["r", "last"], ["y"], transB=1),
    ]
    faces = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size])
        for name, size in (("x", 6), ("y", 3))
    ]
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "blocked", faces[:1], faces[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_go_as_a_whole(bits: int) -> None:
    graph = Graph.from_model(blocked(bits))
    analysis = analyse(graph)
    units = {group.name: group.members[0].index.shape for group in analysis.groups}

    assert units == {"first": (2, 4), "q": (12, 1)}
    assert proved(graph, analysis).gap < TOLERANCE


def test_dequantised_values_of_blocks_are_those_of_onnxruntime() -> None:
    model = blocked(4)
    analysis = analyse(Graph.from_model(model))
    q, scale, zero = (
        numpy_helper.to_array(t).astype(np.float64)
        for t in model.graph.initializer
        if t.name in {"q", "scale", "zero"}
    )
    expected = (q - np.repeat(zero, 4, 1)) * np.repeat(scale, 4, 1)

    assert np.array_equal(Evidence(analysis, None).weight("q"), expected)


def test_packed_weights_are_scored_by_value() -> None:
    rule = next(r for r in OP_RULES.all() if r.op_type == "MatMulNBits")
    model = example_model(rule.examples[0], 21)
    node = next(n for n in model.graph.node if n.op_type == "MatMulNBits")
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    stored, scale, zero = (arrays[name] for name in node.input[1:4])
    low_first = np.stack([stored & 15, stored >> 4], -1).reshape(12, 4, 16).astype(float)
    points = np.stack([zero & 15, zero >> 4], -1).reshape(12, 4).astype(float)

    value = Evidence(analyse(Graph.from_model(model)), None).weight(node.input[1])

    assert np.array_equal(value, (low_first - points[..., None]) * scale.reshape(12, 4, 1))


def test_the_oracle_silences_with_the_zero_point() -> None:
    rule = next(r for r in OP_RULES.all() if r.op_type == "QLinearConv")
    analysis = analyse(Graph.from_model(example_model(rule.examples[0], 18)))
    mask = random_mask(analysis, np.random.default_rng(0), 0.5)

    oracle = masked_graph(mask)

    conv = next(n for n in oracle.nodes if n.op_type == "QLinearConv")
    where = next(n for n in oracle.nodes if conv.input[0] in n.output)
    assert where.op_type == "Where"
    assert where.input[2] == conv.input[2]


def test_repair_says_once_what_it_leaves_alone(data_dir: Path, tmp_path: Path) -> None:
    report = onnxprune.prune(
        data_dir / "onnx" / "cifar10_tinycnn_qlinear_int8.onnx",
        tmp_path / "pruned.onnx",
        ratio=0.3,
        criterion="l2",
        repair="mean",
        data="random",
        samples=4,
    )

    assert sum("quantised operators are not repaired" in note for note in report.notes) == 1
