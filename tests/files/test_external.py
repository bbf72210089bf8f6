"""Weights beside the model: checked, never loaded whole, written as a stream."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnxprune.core import weights
from onnxprune.core.external import ALIGNMENT, EXTERNAL_FROM
from onnxprune.core.graph import constant
from onnxprune.files import store as files
from onnxprune.files.store import digest, load, save
from tests.files.common import CHAIN, X, clone, outputs, refused


# External data ------------------------------------------------------------------------------------
def test_large_external_weights_stay_on_the_disk(
    outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_MAPPED_FROM", 1000)
    graph = load(outside)
    assert graph.external
    for tensor in CHAIN.graph.initializer:
        array = graph.weights[tensor.name].array
        assert isinstance(array, np.memmap) == (array.nbytes >= 1000)
        np.testing.assert_array_equal(array, numpy_helper.to_array(tensor))


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"location": ""}, "inside the model's folder"),
        ({"location": "/etc/passwd"}, "inside the model's folder"),
        ({"location": "../secret.bin"}, "inside the model's folder"),
        ({"location": "a/../../secret.bin"}, "inside the model's folder"),
        ({"location": "C:\\secret.bin"}, "inside the model's folder"),
        ({"location": "..\\secret.bin"}, "inside the model's folder"),
        ({"location": "link.bin"}, "a link to"),
        ({"location": "gone.bin"}, "is missing"),
        ({"location": "folder"}, "not a regular file"),
        ({"offset": "-1"}, "offset -1"),
        ({"offset": "many"}, "no number"),
        ({"offset": "9" * 30}, "is truncated"),
        ({"length": "8"}, "with 8 bytes, expected 1728"),
    ],
)
def test_external_data_that_is_not_there(
    outside: Path, entries: dict[str, str], expected: str
) -> None:
    secret = outside.parent.parent / "secret.bin"
    secret.write_bytes(b"\x00" * 4096)
    (outside.parent / "link.bin").symlink_to(secret)
    (outside.parent / "folder").mkdir()
    model = onnx.load(outside, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = entries.get(entry.key, entry.value)
    outside.write_bytes(model.SerializeToString())
    refused(outside, "'w1'", expected)


def test_external_data_that_is_truncated(outside: Path) -> None:
    data = outside.with_name("chain.bin")
    data.write_bytes(data.read_bytes()[:-1])
    refused(outside, "truncated")


def test_external_tensors_in_attributes_are_checked_and_read(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    node = helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(X[0, 0, 0, :4]))
    model = helper.make_model(
        helper.make_graph([node], "g", [], [value]),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    file = tmp_path / "constant.onnx"
    onnx.save(
        model, file, save_as_external_data=True, location="c.bin", size_threshold=0,
        convert_attribute=True,
    )  # fmt: skip
    attribute: AttributeProto = load(file).nodes[0].attribute[0]
    np.testing.assert_array_equal(numpy_helper.to_array(attribute.t), X[0, 0, 0, :4])
    (tmp_path / "c.bin").unlink()
    refused(file, "c.bin", "missing")


def test_the_digest_covers_external_data(outside: Path) -> None:
    first = digest(outside)
    data = outside.with_name("chain.bin")
    data.write_bytes(data.read_bytes()[:-1] + b"\x01")
    assert digest(outside) != first


# Writing ------------------------------------------------------------------------------------------
def test_what_is_written_is_what_was_read(path: Path, tmp_path: Path) -> None:
    model = clone(CHAIN)
    model.producer_name, model.model_version, model.doc_string = "someone", 3, "text"
    model.metadata_props.add(key="k", value="v")
    onnx.save(model, path)
    written = save(load(path), tmp_path / "out.onnx")
    assert written == (tmp_path / "out.onnx",)
    assert onnx.load(tmp_path / "out.onnx") == model
    assert (tmp_path / "out.onnx").stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def test_external_models_stay_external(outside: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    written = save(load(outside), target)
    assert [file.name for file in written] == ["out.onnx.data", "out.onnx"]
    for tensor in onnx.load(target, load_external_data=False).graph.initializer:
        inline = tensor.data_location == TensorProto.DEFAULT
        expected = next(t for t in CHAIN.graph.initializer if t.name == tensor.name)
        assert inline == (numpy_helper.to_array(expected).nbytes < EXTERNAL_FROM)
        offsets = [int(e.value) for e in tensor.external_data if e.key == "offset"]
        assert all(offset % ALIGNMENT == 0 for offset in offsets)
    np.testing.assert_array_equal(outputs(target)["y"], outputs(outside)["y"])
    assert onnx.load(target).graph.initializer[0].raw_data == CHAIN.graph.initializer[0].raw_data


def test_large_models_become_external(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "INLINE_LIMIT", 5000)
    written = save(load(path), tmp_path / "out.onnx")
    assert len(written) == 2
    np.testing.assert_array_equal(outputs(tmp_path / "out.onnx")["y"], outputs(path)["y"])


def test_streaming_takes_no_memory(outside: Path, tmp_path: Path) -> None:
    size = 1 << 25
    big = np.memmap(tmp_path / "big.bin", np.float32, "w+", shape=(size // 4,))
    graph = load(outside)
    graph.weights["big"] = constant("big", big)
    tracemalloc.start()
    save(graph, tmp_path / "out.onnx")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "out.onnx.data").stat().st_size > size
    assert peak < size / 8
