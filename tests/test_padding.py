"""Padded tokens reach neither second moments nor what a repair is fitted to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune as op
from onnxprune.core.graph import Graph
from onnxprune.core.padding import padding_masks
from onnxprune.core.patches import sample_positions
from onnxprune.structure.dependency import analyse

COUNT, TOKENS, PADDED, WORDS, WIDTH, INNER = 24, 6, 11, 40, 12, 16


def network(second_ids: bool = False) -> onnx.ModelProto:
    """Words, a hidden layer, and the mean over what the mask holds."""
    rng = np.random.default_rng(0)
    shapes = {"table": (WORDS, WIDTH), "w1": (WIDTH, INNER), "w2": (INNER, 5)}
    weights = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    weights["table"][0] = 9.0  # padding is like no word
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["words"]),
        helper.make_node("MatMul", ["words", "w1"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["active"]),
        helper.make_node("MatMul", ["active", "w2"], ["told"]),
        helper.make_node("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real", "last"], ["column"]),
        helper.make_node("Mul", ["told", "column"], ["shown"]),
        helper.make_node("ReduceSum", ["shown", "middle"], ["total"], keepdims=0),
    ]
    inputs = {"ids": ("n", "t"), "attention_mask": ("n", "t")}
    if second_ids:  # of another length, and it leads to the words
        inputs["others"] = ("n", "u")
        nodes[0].input[1] = "mixed"
        nodes.insert(0, helper.make_node("Sub", ["ids", "none"], ["mixed"]))
        nodes.insert(0, helper.make_node("ReduceMin", ["others"], ["none"], keepdims=0))
    integers = {"last": [-1], "middle": [1]}
    graph = helper.make_graph(
        nodes, "text",
        [helper.make_tensor_value_info(n, TensorProto.INT64, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("total", TensorProto.FLOAT, ("n", 5))],
        [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()]
        + [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in integers.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_the_mask_is_that_of_the_tokens() -> None:
    masks = padding_masks(Graph.from_model(network()))
    assert {masks[name] for name in ("words", "active", "told")} == {"attention_mask"}


def test_tensors_fed_by_several_lengths_have_no_mask() -> None:
    assert not padding_masks(Graph.from_model(network(second_ids=True))).keys() & {"words", "told"}


@pytest.mark.parametrize("rows", [3, 32])
def test_padding_is_not_drawn_and_samples_count_alike(rows: int) -> None:
    linear = analyse(Graph.from_model(network())).linears()[0]
    mask = np.arange(PADDED) < np.arange(COUNT)[:, None] % PADDED  # one without any token, too
    keys = np.arange(COUNT, dtype=np.uint64)
    drawn = sample_positions(linear, (COUNT, PADDED, WIDTH), rows, keys, mask)
    assert drawn.shape == (COUNT, min(rows, PADDED))
    for sample, places in enumerate(drawn):
        counts = np.bincount(places, minlength=PADDED)
        length = sample % PADDED
        assert length == 0 or not counts[length:].any()
        assert length == 0 or np.ptp(counts[:length]) <= 1  # evenly spread


@pytest.mark.parametrize("repair", ["least-squares", "sequential"])
def test_repair_is_that_without_padding(repair: str, tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "text.onnx")
    ids = np.random.default_rng(1).integers(1, WORDS, (COUNT, TOKENS))
    kept = []
    for width in (TOKENS, 2 * TOKENS):  # each token is drawn once, then twice
        more = ((0, 0), (0, width - TOKENS))
        data = {"ids": np.pad(ids, more), "attention_mask": np.pad(np.ones_like(ids), more)}
        report = op.prune(
            tmp_path / "text.onnx", tmp_path / f"{width}.onnx", data=data, samples=16, macs=0.6,
            criterion="l2", repair=repair, round_to=1,
        )  # fmt: skip
        assert report.output is not None
        kept.append(Graph.from_model(onnx.load(report.output)).weights)
    assert kept[0].keys() == kept[1].keys()
    for name, weight in kept[0].items():
        gap = np.abs(weight.array - np.asarray(kept[1][name].array)).max()
        assert gap < 1e-4 * max(1.0, float(np.abs(weight.array).max())), name
