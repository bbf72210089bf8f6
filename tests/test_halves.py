"""Models of 16-bit floats: pruned in their own type, proved to the tolerance of it, repaired in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper, version_converter

import onnxprune as op
from onnxprune.core.runtime import Session
from onnxprune.core.widening import holds_bfloat16, widened
from onnxprune.proof.prove import HALF_TOLERANCE

KINDS = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
_FLOAT = TensorProto.FLOAT


def halved(model: ModelProto, kind: int) -> ModelProto:
    """A copy with weights, constants, inputs, outputs and casts of another float type."""
    half = version_converter.convert_version(model, 23)  # Conv knows bfloat16 from 22 on
    for weight in half.graph.initializer:
        _halve(weight, kind)
    for value in (*half.graph.input, *half.graph.output, *half.graph.value_info):
        if value.type.tensor_type.elem_type == _FLOAT:
            value.type.tensor_type.elem_type = kind
    for node in half.graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _halve(attribute.t, kind)
            if (node.op_type, attribute.name, attribute.i) == ("Cast", "to", _FLOAT):
                attribute.i = kind
    onnx.checker.check_model(half, full_check=True)
    return half


def _halve(tensor: TensorProto, kind: int) -> None:
    if tensor.data_type == _FLOAT:
        values = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(kind))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def types(path: Path) -> set[int]:
    """Element types of the floats of a file."""
    graph = onnx.load(path).graph
    found = {weight.data_type for weight in graph.initializer}
    found |= {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
    return found - {TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL}


@pytest.fixture(scope="module")
def home(home: Path) -> Path:
    """The digits, also as 16-bit floats."""
    model = onnx.load(home / "digits.onnx")
    for name, kind in KINDS.items():
        onnx.save(halved(model, kind), home / f"{name}.onnx")
    return home


@pytest.mark.parametrize("name", sorted(KINDS))
def test_types_stay_and_repair_helps(name: str, home: Path) -> None:
    options: dict[str, Any] = {"macs": 0.2, "samples": 256}
    report = op.prune(
        home / f"{name}.onnx", home / f"{name}.s.onnx", data=home / "train.npz", **options
    )
    plain = op.prune(
        home / f"{name}.onnx",
        home / f"{name}.p.onnx",
        data=home / "train.npz",
        repair="none",
        **options,
    )
    whole = op.prune(home / "digits.onnx", home / "whole.onnx", data=home / "train.npz", **options)
    assert types(home / f"{name}.s.onnx") == {KINDS[name]}
    assert report.proof is not None
    assert report.proof.gap <= report.proof.tolerance == HALF_TOLERANCE
    assert report.proof.moved > 0.1
    for found in (report, plain, whole):
        assert found.evaluation is not None
    ours, without, full = (r.evaluation.error for r in (report, plain, whole) if r.evaluation)
    assert ours is not None
    assert without is not None
    assert full is not None
    assert ours < 0.5 * without
    assert ours == pytest.approx(full, rel=0.15)  # about as good as in float32
    assert report.latency is not None
    assert any("no bfloat16" in note for note in report.notes) == (name == "bfloat16")


@pytest.mark.parametrize("name", sorted(KINDS))
def test_other_commands_take_halves(name: str, home: Path) -> None:
    half, output = home / f"{name}.onnx", home / f"{name}.v.onnx"
    found = op.prune(half, output, data=home / "train.npz", criterion="l1", max_drop="5%", trials=3)
    assert found.search is not None
    assert found.search.trials[found.search.chosen].drop.holds
    plan = output.with_name(f"{name}.v.plan.json")
    assert op.verify(output, plan, original=half).weights > 0
    test = op.evaluate(output, home / "test.npz", labels="labels", reference=half)
    assert test.accuracy is not None
    assert test.accuracy.top1 > 0.93
    op.sparsify(half, home / f"{name}.z.onnx", data=home / "train.npz", samples=64)
    assert types(home / f"{name}.z.onnx") == {KINDS[name]}


def test_bfloat16_runs_as_the_float32_it_is(home: Path) -> None:
    model = onnx.load(home / "bfloat16.onnx")
    wide = widened(model)
    assert holds_bfloat16(model)
    assert not holds_bfloat16(wide)
    images = np.load(home / "test.npz")["images"][:8]
    session = Session(home / "bfloat16.onnx")
    assert session.widened
    assert not Session(home / "float16.onnx").widened
    narrow = images.astype(ml_dtypes.bfloat16)
    (found,) = session.run({"images": narrow}).values()
    (expected,) = Session(wide).run({"images": narrow.astype(np.float32)}).values()
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32


def test_widening_reaches_bodies() -> None:
    text = """<ir_version: 10, opset_import: ["" : 23]>
    g (bfloat16[2] x, bool c) => (bfloat16[2] y) {
        y = If (c) <
            then_branch = t () => (bfloat16[2] a) { a = Add (x, w) },
            else_branch = e () => (bfloat16[2] b) { b = Cast <to: int = 16> (x) }>
    }"""
    model = onnx.parser.parse_model(text)
    weight = np.array([1, 2], ml_dtypes.bfloat16)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    wide = widened(model)
    onnx.checker.check_model(wide, full_check=True)
    (y,) = Session(wide).run({"x": np.ones(2, np.float32), "c": np.array(True)}).values()
    np.testing.assert_array_equal(y, np.array([2, 3], np.float32))
