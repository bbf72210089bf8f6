"""Bad files are refused in one line, good ones come back whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.core import external
from onnxprune.core.errors import ModelError
from onnxprune.files import store as files
from onnxprune.files.store import load, save
from tests.files.common import CHAIN, clone, outputs, refused


# Reading ------------------------------------------------------------------------------------------
def test_a_good_file_comes_back_whole(path: Path) -> None:
    assert load(path).to_model() == CHAIN


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    refused(tmp_path / "no.onnx", "No such file")
    refused(tmp_path, "it is a folder")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (b"hello, world\n", "not an ONNX file"),
        (b"\x00" * 100, "not an ONNX file"),
        (b"\x0a\x00", "no ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"PK\x03\x04" + b"\x00" * 60, "zip"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"\x1f\x8b\x08" + b"\x00" * 60, "gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x1c\x00\x00\x00TFL3", "TFLite"),
        (b"\x1c\x00\x00\x00ORTM", "onnxruntime's own"),
    ],
)
def test_not_an_onnx_file(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(content)
    refused(file, expected)


def test_every_truncation_is_refused(path: Path, tmp_path: Path) -> None:
    whole = path.read_bytes()
    file = tmp_path / "cut.onnx"
    for stop in [*range(0, len(whole), 97), *range(len(whole) - 8, len(whole))]:
        file.write_bytes(whole[:stop])
        refused(file)


def test_random_damage_never_breaks_the_reader(
    path: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    file = tmp_path / "damaged.onnx"
    refusals = []
    for _ in range(150):
        damaged = whole.copy()
        damaged[rng.integers(0, 1500, 3)] = rng.integers(0, 256, 3)
        file.write_bytes(damaged.tobytes())
        try:
            load(file)
        except ModelError as error:
            refusals.append(str(error))
    assert len(refusals) > 30
    assert not any("\n" in text for text in refusals)


def test_a_larger_message_than_protobuf_reads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MESSAGE_LIMIT", 1000)
    refused(path, "external data", "1000")


@pytest.mark.parametrize("what", ["IR version", "opset of ai.onnx", "opset of ai.onnx.ml"])
def test_versions_that_onnxruntime_does_not_know(path: Path, what: str) -> None:
    def write(version: int) -> None:
        model = clone(CHAIN)
        if what == "IR version":
            model.ir_version = version
        elif what == "opset of ai.onnx":
            model.opset_import[0].version = version
        else:
            model.opset_import.add(domain="ai.onnx.ml", version=version)
        onnx.save(model, path)

    write(99)
    text = refused(path, "99", what.split()[-1], "onnxruntime", "supports at most")
    largest = int(text.split("supports at most ")[1].split(":")[0])
    write(largest)  # the number is right: that version is read
    load(path)
    write(largest + 1)
    refused(path, f"supports at most {largest}:")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: setattr(t, "raw_data", t.raw_data[:-4]), "holds 1724 bytes, expected 1728"),
        (lambda t: t.dims.append(2), "expected 3456"),
        (lambda t: t.dims.append(2**62), "expected"),
        (lambda t: t.dims.append(-1), "negative"),
        (lambda t: setattr(t, "data_type", 99), "unknown element type 99"),
        (lambda t: setattr(t, "data_type", 0), "unknown element type 0"),
        (lambda t: (t.ClearField("raw_data"), t.float_data.append(1.0)), "holds 1 values"),
    ],
)
def test_weights_of_the_wrong_size(
    path: Path, change: Callable[[TensorProto], None], expected: str
) -> None:
    model = clone(CHAIN)
    change(model.graph.initializer[0])
    path.write_bytes(model.SerializeToString())
    refused(path, "'w1'", expected)


@pytest.mark.parametrize("kind", sorted(set(TensorProto.DataType.values()) - {0}))
def test_every_element_type_is_read_and_written(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    """An extra weight of each type, odd in number, as raw bytes and as numbers; and outside."""
    monkeypatch.setattr(external, "EXTERNAL_FROM", 1)
    if kind == TensorProto.STRING:
        tensors = [numpy_helper.from_array(np.array(["a", "b", "c"], object), "odd")]
    else:
        values = np.ones(3, helper.tensor_dtype_to_np_dtype(kind))
        raw = numpy_helper.from_array(values, "odd")
        raw.data_type = kind
        tensors = [raw]
        if kind not in {TensorProto.COMPLEX64, TensorProto.COMPLEX128}:
            typed = helper.make_tensor("odd", kind, [3], [1.0, 1.0, 1.0])
            tensors.append(typed)
    for tensor in tensors:
        model = clone(CHAIN)
        model.ir_version = 13
        model.graph.initializer.append(tensor)
        path.write_bytes(model.SerializeToString())
        graph = load(path)
        expected = graph.weights["odd"].array
        graph.external = True
        save(graph, tmp_path / "out.onnx")
        again = load(tmp_path / "out.onnx").weights["odd"]
        assert again.proto.data_type == kind
        outside = again.proto.data_location == TensorProto.EXTERNAL
        assert outside == (kind != TensorProto.STRING)
        np.testing.assert_array_equal(again.array, expected)


def test_an_unsorted_model_is_sorted(path: Path) -> None:
    """Onnx's check refuses it, onnxruntime runs it; everybody else relies on the order."""
    expected = outputs(path)["y"]
    model = clone(CHAIN)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    onnx.save(model, path)
    graph = load(path)
    assert [n.output[0] for n in graph.nodes] == [n.output[0] for n in CHAIN.graph.node]
    save(graph, path)
    np.testing.assert_array_equal(outputs(path)["y"], expected)


def test_an_invalid_model_is_refused_with_the_reason(path: Path) -> None:
    model = clone(CHAIN)
    model.graph.node[0].op_type = "Convolution"
    onnx.save(model, path)
    refused(path, "no valid ONNX model", "Convolution")
