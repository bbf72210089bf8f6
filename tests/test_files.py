"""Reading bad files, and writing good ones whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from onnxprune.core import external, weights
from onnxprune.core.errors import ModelError, OnnxPruneError
from onnxprune.core.external import ALIGNMENT, EXTERNAL_FROM
from onnxprune.core.graph import Graph, constant
from onnxprune.core.runtime import Session
from onnxprune.files import store as files
from onnxprune.files.store import digest, load, save
from tests.networks import NETWORKS

CHAIN = NETWORKS["chain"].model()
X = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good model in a folder of its own."""
    folder = tmp_path / "model"
    folder.mkdir()
    onnx.save(CHAIN, folder / "chain.onnx")
    return folder / "chain.onnx"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """The same model with its weights in a file beside it: 'chain.bin'."""
    folder = tmp_path / "outside"
    folder.mkdir()
    onnx.save(
        clone(CHAIN), folder / "chain.onnx", save_as_external_data=True, location="chain.bin",
        size_threshold=0,
    )  # fmt: skip
    return folder / "chain.onnx"


def clone(model: ModelProto) -> ModelProto:
    twin = ModelProto()
    twin.CopyFrom(model)
    return twin


def listing(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def outputs(path: Path) -> dict[str, np.ndarray]:
    return Session(path, optimise=False).run({"x": X})


def refused(path: Path, *expected: str) -> str:
    """Assert that a file is refused in one line that holds all of `expected`."""
    with pytest.raises(ModelError) as caught:
        load(path)
    text = str(caught.value)
    assert "\n" not in text
    for part in (str(path), *expected):
        assert part in text
    return text


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


@pytest.mark.parametrize(
    "name", ["chain.onnx", "symbolic.onnx", "hard.onnx", "../model/chain.onnx"]
)
def test_the_input_is_not_written_over(path: Path, name: str) -> None:
    (path.parent / "symbolic.onnx").symlink_to(path)
    (path.parent / "hard.onnx").hardlink_to(path)
    before = listing(path.parent)
    with pytest.raises(OnnxPruneError, match="--overwrite"):
        save(pruned(path), path.parent / name, original=path)
    assert listing(path.parent) == before


def pruned(path: Path) -> Graph:
    """The model with other weights, as after a prune."""
    graph = load(path)
    graph.weights["b3"] = graph.weights["b3"].replace(np.arange(5, dtype=np.float32))
    return graph


def test_the_input_may_be_written_over_when_asked(path: Path) -> None:
    link = path.with_name("link.onnx")
    link.symlink_to(path)
    path.chmod(0o640)
    save(pruned(path), link, original=path, overwrite=True)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    np.testing.assert_array_equal(load(path).weights["b3"].array, np.arange(5))
    assert sorted(listing(path.parent)) == ["chain.onnx", "link.onnx"]


def test_external_models_may_be_written_over(outside: Path) -> None:
    """Their weights are never in a file that is replaced: the model switches from old to new."""
    expected = outputs(outside)["y"]
    for name in ("chain.onnx.data", "chain.onnx.1.data", "chain.onnx.data"):
        save(load(outside), outside, original=outside, overwrite=True)
        assert sorted(listing(outside.parent)) == sorted(["chain.bin", "chain.onnx", name])
        np.testing.assert_array_equal(outputs(outside)["y"], expected)


@pytest.mark.parametrize(("written", "times"), [(0, 1), (1, 1), (1, 2), (2, 1)])
def test_a_kill_while_writing_over_leaves_the_model_as_it_was(
    outside: Path, written: int, times: int
) -> None:
    """Killed before the first rename, between renames, after the last: the model is old or new."""
    for _ in range(times):
        save(load(outside), outside, original=outside, overwrite=True)
    before = outputs(outside)["y"]
    code = f"""
import os, signal, sys
from pathlib import Path
import numpy as np
from onnxprune.files.store import load, save
rename, done = Path.replace, 0
def replace(self, target):
    global done
    if done == {written}:
        os.kill(os.getpid(), signal.SIGKILL)
    done += 1
    return rename(self, target)
Path.replace = replace
path = Path(sys.argv[1])
graph = load(path)
graph.weights["b3"] = graph.weights["b3"].replace(np.full(5, 9, np.float32))
graph.weights["w1"] = graph.weights["w1"].replace(graph.weights["w1"].array * 2)
save(graph, path, original=path, overwrite=True)
"""
    done = subprocess.run([sys.executable, "-c", code, str(outside)], check=False)
    assert done.returncode == (-signal.SIGKILL if written < 2 else 0)
    after = outputs(outside)["y"]
    assert (np.array_equal(after, before)) == (written < 2)
    save(load(outside), outside, original=outside, overwrite=True)  # what is left over does no harm
    np.testing.assert_array_equal(outputs(outside)["y"], after)


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_weights_of_the_input_are_not_written_over(outside: Path, overwrite: bool) -> None:
    outside.with_name("chain.bin").rename(outside.with_name("other.onnx.data"))
    model = onnx.load(outside, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = "other.onnx.data"
    outside.write_bytes(model.SerializeToString())
    before = listing(outside.parent)
    for name in ("other.onnx", "other.onnx.data"):
        with pytest.raises(OnnxPruneError, match="part of the input"):
            save(load(outside), outside.with_name(name), original=outside, overwrite=overwrite)
    assert listing(outside.parent) == before


def test_files_beside_appear_with_the_model(path: Path, tmp_path: Path) -> None:
    target, plan = tmp_path / "out.onnx", tmp_path / "out.plan.json"
    assert save(load(path), target, beside={plan: b"{}"}) == (plan, target)
    assert plan.read_bytes() == b"{}"
    for wrong, message in ((path, "part of the input"), (target, "twice")):
        with pytest.raises(OnnxPruneError, match=message):
            save(load(path), target, original=path, beside={wrong: b"{}"})
    assert sorted(f.name for f in tmp_path.iterdir()) == ["model", "out.onnx", "out.plan.json"]


@pytest.mark.parametrize(
    ("name", "expected"), [("none/out.onnx", "create it first"), (".", "not a regular file")]
)
def test_where_nothing_can_be_written(path: Path, tmp_path: Path, name: str, expected: str) -> None:
    with pytest.raises(OnnxPruneError, match=expected):
        save(load(path), tmp_path / name)


# Failures while writing ---------------------------------------------------------------------------


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow beyond four kB: the kernel refuses the write as on a full disk.

    Only around the write: pytest's own report may be a longer file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("source", ["path", "outside"])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, existing: bool, source: str) -> None:
    (folder := tmp_path / "target").mkdir()
    target = folder / "out.onnx"
    graph = Graph.from_model(CHAIN)
    graph.external = source == "outside"
    if existing:
        target.write_bytes(b"old")
    before = listing(folder)
    refused = pytest.raises(OnnxPruneError, match=r"cannot write .*out.onnx.*nothing was written")
    with refused, full_disk():
        save(graph, target, beside={folder / "plan.json": b"{}"})
    assert listing(folder) == before


def test_a_disk_that_fails_to_flush(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    before = listing(path.parent)
    with pytest.raises(OnnxPruneError, match="No space left on device"):
        save(pruned(path), path, original=path, overwrite=True)
    assert listing(path.parent) == before


@pytest.mark.parametrize("existing", [False, True])
def test_a_rename_that_fails_takes_the_others_back(
    outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool
) -> None:
    (folder := tmp_path / "target").mkdir()
    target = folder / "out.onnx"
    if existing:
        target.write_bytes(b"old model")
        target.with_name("out.onnx.data").write_bytes(b"old data")
    before = listing(folder)
    rename = Path.replace

    def fail(self: Path, to: Path) -> Path:
        if to.name == "out.onnx":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return rename(self, to)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OnnxPruneError, match="Permission denied"):
        save(load(outside), target)
    assert listing(folder) == before


def test_an_interrupt_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    before = listing(path.parent)
    with pytest.raises(KeyboardInterrupt):
        save(pruned(path), path.with_name("out.onnx"))
    assert listing(path.parent) == before


def test_real_files_come_back_whole(data_dir: Path, tmp_path: Path) -> None:
    for file in sorted((data_dir / "onnx").glob("*.onnx")):
        graph = load(file)
        save(graph, tmp_path / "out.onnx")
        again = onnx.load(tmp_path / "out.onnx")
        assert again == graph.to_model()
        original = onnx.load(file)
        assert list(again.graph.node) == list(original.graph.node)
        assert {t.name: t for t in again.graph.initializer} == {
            t.name: t for t in original.graph.initializer
        }
