"""Sequences, optional values, maps, unknown operators, and constants that would grow: never broken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from onnxprune.cli import main
from onnxprune.core.errors import ModelError, OnnxPruneError
from onnxprune.core.graph import Graph
from onnxprune.core.runtime import Session
from onnxprune.passes.surgery.channels import remove_channels
from onnxprune.proof.prove import prove, relative_gap
from onnxprune.structure.dependency import analyse
from tests.examples import random_mask
from tests.handmade import examined, handmade, ints, members, proved

REST = """
    k = MatMul(u, w5)
    l = Relu(k)
    z = MatMul(l, w6)
"""
SEQUENCES = {
    "built and read": "s = SequenceConstruct(a, b)  c = SequenceAt(s, one)",
    "built and joined": "s = SequenceConstruct(a, b)  c = ConcatFromSequence<axis=1>(s)",
    "split and joined": "s = SplitToSequence<axis=1>(a)  c = ConcatFromSequence<axis=1, new_axis=0>(s)",
    "inserted, erased, counted": """
        s = SequenceEmpty<dtype=1>()  p = SequenceInsert(s, a)  q = SequenceInsert(p, b)
        r = SequenceErase(q, zero)  n = SequenceLength(r)  m = Cast<to=1>(n)
        x = SequenceAt(r, zero)  c = Mul(x, m)""",
    "mapped": """
        s = SequenceConstruct(a, b)
        p = SequenceMap<body = twice (float[N,6] i) => (float[N,6] o) { o = Add(i, i) }>(s)
        c = SequenceAt(p, one)""",
    "optional": "o = Optional(a)  h = OptionalHasElement(o)  c = OptionalGetElement(o)",
    "through a branch": """
        c = If(flag) <
            then_branch = yes () => (float[N,6] t) { s = SequenceConstruct(a, b) t = SequenceAt(s, one) },
            else_branch = no () => (float[N,6] e) { e = Relu(b) }
        >""",
    "out of a branch": """
        s = If(flag) <
            then_branch = yes () => (seq(float[N,6]) t) { t = SequenceConstruct(a, b) },
            else_branch = no () => (seq(float[N,6]) e) { e = SequenceConstruct(b, a) }
        >
        c = SequenceAt(s, one)""",
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_sequences_freeze_what_they_touch_and_no_more(name: str) -> None:
    """What is beside them is pruned and proved."""
    model = handmade(
        f"""(float[N,4] u, bool flag) => (float[N,2] y, float[N,2] z) {{
            a = MatMul(u, w1)
            b = MatMul(u, w2)
            {SEQUENCES[name]}
            y = MatMul(c, w4)
            {REST}
        }}""",
        w1=(4, 6), w2=(4, 6), w4=(12 if name == "built and joined" else 6, 2), w5=(4, 8), w6=(8, 2),
        one=np.array(1, np.int64), zero=np.array(0, np.int64),
    )  # fmt: skip
    analysis = proved(model)

    assert {("w5", 1), ("w6", 0)} in members(analysis)
    assert list(analysis.graph.to_model().graph.output) == list(model.graph.output)


def test_outputs_that_are_sequences_and_maps() -> None:
    """A classifier of OnnxMLTools: labels, and one map of scores per sample."""
    model = handmade(
        """(float[N,4] u) => (float[N,3] scores, float[N,3] y) {
            a = MatMul(u, w1)
            b = Relu(a)
            scores = MatMul(b, w2)
            c = MatMul(u, w3)
            y = MatMul(c, w4)
        }""",
        w1=(4, 8), w2=(8, 3), w3=(4, 6), w4=(6, 3),
    )  # fmt: skip
    names = helper.make_node(
        "ZipMap", ["scores"], ["table"], classlabels_strings=["cat", "dog", "eel"],
        domain="ai.onnx.ml",
    )  # fmt: skip
    several = helper.make_node("SplitToSequence", ["y"], ["pieces"], axis=1)
    model.graph.node.extend([names, several])
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    scalar = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    table = helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.STRING, scalar))
    model.graph.output.append(helper.make_value_info("table", table))
    model.graph.output.append(
        helper.make_value_info("pieces", helper.make_sequence_type_proto(tensor))
    )
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    analysis = proved(model)

    assert members(analysis) == [{("w1", 1), ("w2", 0)}, {("w3", 1), ("w4", 0)}]


def test_gaps_of_sequences_and_maps() -> None:
    one, two = np.ones(3, np.float32), np.full(3, 1.5, np.float32)

    assert relative_gap([one, two], [one, two]) == 0.0
    assert relative_gap([one], [two]) == 0.5
    assert relative_gap([one, two], [one]) == np.inf
    assert relative_gap([{"a": 1.0, "b": 2.0}], [{"a": 1.0, "b": 3.0}]) == 0.5
    assert relative_gap([{"a": 1.0}], [{"b": 1.0}]) == np.inf
    assert relative_gap(None, None) == 0.0
    assert relative_gap(one, None) == np.inf


def with_sequence_input() -> ModelProto:
    model = handmade(
        """(float[N,4] u) => (float[N,2] y) {
            a = SequenceAt(s, zero)
            b = Add(a, u)
            c = MatMul(b, w1)
            d = Relu(c)
            y = MatMul(d, w2)
        }""",
        w1=(4, 6), w2=(6, 2), zero=np.array(0, np.int64),
    )  # fmt: skip
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [1, 4])
    model.graph.input.append(helper.make_value_info("s", helper.make_sequence_type_proto(tensor)))
    return model


def test_inputs_that_cannot_be_drawn() -> None:
    model = with_sequence_input()
    graph = Graph.from_model(model)
    analysis = analyse(graph)
    mask = random_mask(analysis, np.random.default_rng(0), 0.5)

    assert members(analysis) == [{("w1", 1), ("w2", 0)}]
    with pytest.raises(ModelError, match=r"'s'.*no tensor.*--no-verify"):
        prove(graph, mask, remove_channels(mask))


def test_without_proof_they_can_be_pruned(tmp_path: Path) -> None:
    source, target = tmp_path / "m.onnx", tmp_path / "p.onnx"
    onnx.save(with_sequence_input(), source)

    assert main(["inspect", str(source)]) == 0
    words = ["prune", str(source), "-o", str(target), "--ratio", "0.5", "--round-to", "1"]
    assert main(words) == 2
    assert main([*words, "--no-verify"]) == 0
    assert {t.name: list(t.dims) for t in onnx.load(target).graph.initializer}["w2"] == [3, 2]


GROWING = {
    "Expand": "big = Expand(one, wide)",
    "ConstantOfShape": "big = ConstantOfShape<value = float[1] {0.5}>(wide)",
    "Tile": "big = Tile(few, wide)",
    "Range": "n = Range(zero, many, step)  m = Cast<to=1>(n)  big = Reshape(m, wide)",
    "a mask": "n = ConstantOfShape<value = float[1] {1.0}>(wide)  big = Trilu(n)",
}


@pytest.mark.parametrize("name", GROWING)
def test_a_short_computation_stays_one(name: str) -> None:
    """A constant of 4 MB is written as the operator that makes it."""
    model = handmade(
        f"""(float[N,1000,4] u) => (float[N,1000,2] y) {{
            {GROWING[name]}
            a = MatMul(u, w1)
            b = Relu(a)
            c = MatMul(big, b)
            y = MatMul(c, w2)
        }}""",
        w1=(4, 8), w2=(8, 2), one=np.ones((1, 1), np.float32),
        few=np.full((1, 1), 0.5, np.float32), wide=ints(1000, 1000),
        zero=np.array(0, np.int64), many=np.array(1_000_000, np.int64), step=np.array(1, np.int64),
    )  # fmt: skip
    analysis = proved(model, draws=1)

    assert analysis.graph.to_model().ByteSize() < model.ByteSize() + 1000
    assert members(analysis) == [{("w1", 1), ("w2", 0)}]


def unknown() -> ModelProto:
    """A model with an operator that nobody has."""
    return handmade(
        """(float[N,4] u) => (float[N,2] y, float[N,2] z) {
            a = MatMul(u, w1)
            b = org.example.Secret(a)
            y = MatMul(b, w4)
            """
        + REST
        + "}",
        w1=(4, 6), w4=(6, 2), w5=(4, 8), w6=(8, 2),
    )  # fmt: skip


def test_an_unknown_operator_freezes_what_it_touches() -> None:
    analysis = examined(unknown())

    assert members(analysis) == [{("w5", 1), ("w6", 0)}]
    assert {f.tensor: f.reason for f in analysis.frozen}[
        "w1"
    ] == "no rule for op org.example::Secret"


def test_a_proof_that_cannot_run_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "m.onnx", tmp_path / "p.onnx"
    onnx.save(unknown(), source)
    there = ["prune", str(source), "--ratio", "0.5", "-o", str(target), "--round-to", "1"]

    assert main(there) == 2
    (line,) = (x for x in capsys.readouterr().err.splitlines() if "Secret" in x)
    assert "ONNXPRUNE_CUSTOM_OPS" in line
    assert "--no-verify" in line
    assert not target.exists()

    assert main(["inspect", str(source), "--json"]) == 0
    assert "org.example::Secret" in capsys.readouterr().out

    assert main([*there, "--no-verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["proof"] is None
    result = onnx.load(target)
    assert {t.name: list(t.dims) for t in result.graph.initializer}["w6"] == [4, 2]
    assert result.graph.node[1] == unknown().graph.node[1]


def test_a_library_of_operators_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONNXPRUNE_CUSTOM_OPS", str(tmp_path / "none.so"))

    with pytest.raises(OnnxPruneError, match=r"ONNXPRUNE_CUSTOM_OPS: .*none\.so"):
        Session(unknown())


def test_a_constant_sequence_is_no_weight() -> None:
    model = handmade(
        """(float[N,4] u) => (float[N,2] y) {
            s = SequenceConstruct(first, second)
            c = SequenceAt(s, one)
            a = MatMul(u, w1)
            b = Add(a, c)
            y = MatMul(b, w2)
        }""",
        w1=(4, 6), w2=(6, 2), first=(6,), second=(6,), one=np.array(1, np.int64),
    )  # fmt: skip

    assert members(proved(model)) == [{("w1", 1), ("c", 0), ("w2", 0)}]
