"""Models larger than memory, at small scale: read in pieces, cut unread, streamed, proved from files."""

from __future__ import annotations

import functools
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxprune import api
from onnxprune.core import external, runtime, weights
from onnxprune.core.contracts import CRITERIA, SURGERIES, Evidence
from onnxprune.core.errors import ModelError, OnnxPruneError
from onnxprune.core.external import hollow
from onnxprune.core.graph import Graph, Weight
from onnxprune.core.runtime import Session
from onnxprune.files import store
from onnxprune.files.store import load, save
from onnxprune.pipeline import run
from onnxprune.proof.prove import check_model, prove
from onnxprune.structure.dependency import analyse

WORDS = np.arange(12).reshape(2, 6)
GIGABYTE = 1 << 30


def write(folder: Path, width: int, hidden: int, *, files: int = 2, hole: bool = False) -> Path:
    """Write a network of two feed-forward blocks whose weights lie in several files.

    With `hole` the files are all hole: any size, no room on the disk.
    """
    x, nodes = "x", []
    shapes: dict[str, tuple[int, ...]] = {"table": (40, width)}
    nodes.append(helper.make_node("Gather", ["table", "words"], ["x"]))
    for n in range(2):
        shapes |= {f"up{n}": (width, hidden), f"bias{n}": (hidden,), f"down{n}": (hidden, width)}
        nodes += [
            helper.make_node("MatMul", [x, f"up{n}"], [f"a{n}"]),
            helper.make_node("Add", [f"a{n}", f"bias{n}"], [f"b{n}"]),
            helper.make_node("Relu", [f"b{n}"], [f"c{n}"]),
            helper.make_node("MatMul", [f"c{n}", f"down{n}"], [f"d{n}"]),
            helper.make_node("Add", [x, f"d{n}"], [f"y{n}"]),
        ]
        x = f"y{n}"
    shapes["head"] = (width, 7)
    nodes.append(helper.make_node("MatMul", [x, "head"], ["logits"]))
    model = helper.make_model(
        helper.make_graph(
            nodes, "blocks",
            [helper.make_tensor_value_info("words", TensorProto.INT64, ["n", "length"])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", "length", 7])],
        ),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    rng, ends = np.random.default_rng(0), [0] * files
    for number, (name, shape) in enumerate(shapes.items()):
        place, size = number % files, 4 * int(np.prod(shape))
        tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        entries = {"location": f"part{place}.bin", "offset": ends[place], "length": size}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        model.graph.initializer.append(tensor)
        with (folder / f"part{place}.bin").open("ab") as stream:
            if hole:
                stream.truncate(ends[place] + size)
            else:
                stream.write((rng.standard_normal(shape, np.float32) / shape[0] ** 0.5).tobytes())
        ends[place] += size
    path = folder / "huge.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small model for which every limit is smaller still."""
    monkeypatch.setattr(weights, "_MAPPED_FROM", 1)
    monkeypatch.setattr(weights, "PIECE", 300)
    monkeypatch.setattr(runtime, "STREAMED_FROM", 1000)
    for module in (external, run, store):
        monkeypatch.setattr(module, "INLINE_LIMIT", 1000)
    monkeypatch.setattr("onnxprune.proof.prove.CHECKED_WHOLE", 0)
    return write(tmp_path, 16, 24)


def peak(work: Callable[[], object]) -> int:
    """Return the bytes that Python and numpy held at most; mapped files do not count."""
    tracemalloc.start()
    work()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


# Weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
@pytest.mark.parametrize("shape", [(40, 6), (3, 50, 4), (120,), (1, 90)])
@pytest.mark.parametrize("most", [1, 64, 10_000])
def test_weights_cut_unread_are_those_cut_in_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: type[np.generic],
    shape: tuple[int, ...],
    most: int,
) -> None:
    monkeypatch.setattr(weights, "_MAPPED_FROM", 1)
    rng = np.random.default_rng(most)
    values = rng.integers(-100, 100, shape).astype(dtype)
    (tmp_path / "w.bin").write_bytes(b"12345678" + values.tobytes())
    proto = TensorProto(data_type=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), dims=shape)
    proto.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "w.bin", "offset": "8"}.items():
        proto.external_data.add(key=key, value=value)
    weight, expected = Weight(proto, tmp_path), values
    for axis in [*range(len(shape)), 0]:  # the first axis twice
        gone = rng.random(expected.shape[axis]) < 0.3
        gone[0] = False
        silent, zeros = weight.silenced(axis, gone), expected.copy()
        np.moveaxis(zeros, axis, 0)[gone] = 0
        np.testing.assert_array_equal(np.concatenate(list(silent.pieces(most))), zeros)
        weight, expected = weight.without(axis, gone), expected.compress(~gone, axis=axis)
        assert weight.edited is None
        assert weight.shape == expected.shape
        assert weight.nbytes == expected.nbytes
        np.testing.assert_array_equal(np.concatenate(list(weight.pieces(most))), expected)
        np.testing.assert_array_equal(weight.array, expected)


def test_zeros_at_several_axes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_MAPPED_FROM", 1)
    weight = load(write(tmp_path, 8, 12)).weights["up0"]
    rows, columns = np.arange(8) < 3, np.arange(12) > 9
    silent = weight.silenced(0, rows).silenced(1, columns).silenced(0, ~rows & (np.arange(8) < 4))
    expected = np.array(weight.array)
    expected[:4], expected[:, 10:] = 0, 0
    np.testing.assert_array_equal(silent.array, expected)


# Sizes beyond memory ------------------------------------------------------------------------------


def test_a_model_of_twenty_gigabytes_is_analysed_without_reading_it(tmp_path: Path) -> None:
    path = write(tmp_path, 36_000, 36_000, hole=True)
    assert sum(file.stat().st_size for file in tmp_path.glob("*.bin")) > 19 * GIGABYTE
    found = []
    most = peak(lambda: found.append(analyse(load(path))))
    assert [len(group) for group in found[0].groups] == [36_000] * 3
    assert most < 150e6


def test_cutting_scoring_and_writing_take_a_piece_at_a_time(tmp_path: Path) -> None:
    path = write(tmp_path, 512, 16_384, hole=True)  # 34 MB a matrix
    weights_bytes = sum(file.stat().st_size for file in tmp_path.glob("*.bin"))
    analysis = analyse(load(path))
    evidence = Evidence(analysis, None)
    for name in ("l1", "l2"):
        scored = peak(functools.partial(CRITERIA[name].rank, evidence))
        assert scored < 6 * weights.PIECE < 2 * weights_bytes
    mask = analysis.mask(np.concatenate([group.units[::2] for group in analysis.groups]))
    assert peak(lambda: SURGERIES["channels"](mask)) < 4e6
    pruned = SURGERIES["channels"](mask)
    most = peak(lambda: save(pruned, tmp_path / "out.onnx"))
    assert (tmp_path / "out.onnx.data").stat().st_size < 0.3 * weights_bytes
    assert most < 2.2 * weights.PIECE


# Checks and runs ----------------------------------------------------------------------------------


def test_checks_look_at_shapes_only(small: Path) -> None:
    graph = load(small)
    model = hollow(graph)
    assert {t.name for t in model.graph.initializer} == {"bias0", "bias1", "head"}  # below 1 kB
    assert len(model.SerializeToString()) < 2500
    check_model(graph)
    graph.weights["up0"] = Weight(TensorProto(dims=[17, 24], data_type=TensorProto.FLOAT, name="w"))
    graph.weights["up0"] = graph.weights["up0"].replace(np.zeros((17, 24), np.float32))
    with pytest.raises(ModelError, match="check"):
        check_model(graph)


def test_a_large_graph_runs_from_a_temporary_file(small: Path) -> None:
    expected = Session(small, optimise=False).run({"words": WORDS})["logits"]
    session = Session(load(small), optimise=False)
    np.testing.assert_array_equal(session.run({"words": WORDS})["logits"], expected)


def test_no_room_for_temporary_files(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(OnnxPruneError, match=r"temporary files.*TMPDIR.*--no-verify") as caught:
        Session(load(small))
    assert "\n" not in str(caught.value)


def test_the_proof_of_a_large_model_sees_what_differs(small: Path) -> None:
    original = load(small)
    analysis = analyse(original)
    mask = analysis.mask(np.concatenate([group.units[::3] for group in analysis.groups]))
    pruned = SURGERIES["channels"](mask)
    proof = prove(original, mask, pruned)
    assert proof.gap < 1e-5
    assert proof.moved > 1e-2
    pruned.weights["down1"] = pruned.weights["down1"].replace(pruned.weights["down1"].array * 1.01)
    with pytest.raises(OnnxPruneError, match="d1"):
        prove(original, mask, pruned)


@pytest.mark.parametrize("verify", [True, False])
def test_a_large_model_is_pruned(small: Path, tmp_path: Path, verify: bool) -> None:
    output = tmp_path / "out.onnx"
    report = api.prune(small, output, ratio=0.5, criterion="l1", round_to=1, verify=verify)
    assert (report.proof is not None) == verify
    assert report.latency is None
    (note,) = [note for note in report.notes if "large" in note]
    assert ("not loaded" in note) == (not verify)
    model = onnx.load(output)
    assert {t.name: tuple(t.dims) for t in model.graph.initializer}["up0"] == (8, 12)
    inline = write(shutil.copytree(tmp_path, tmp_path / "again"), 1, 1).with_name("m.onnx")
    whole = onnx.load(small)
    onnx.save(whole, inline)
    other = api.prune(
        inline, inline.with_name("o.onnx"), ratio=0.5, criterion="l1", round_to=1, verify=False
    )
    assert other.figures["params"].after == report.figures["params"].after
    assert {
        t.name: t.raw_data for t in onnx.load(inline.with_name("o.onnx")).graph.initializer
    } == {t.name: t.raw_data for t in model.graph.initializer}


def test_what_cannot_leave_the_message_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Constants within nodes stay there: protobuf itself refuses a message beyond its limit."""
    graph: Graph = load(write(tmp_path, 8, 12))
    before = sorted(tmp_path.iterdir())

    def refuse(_: object) -> bytes:
        raise ValueError("Message onnx.ModelProto exceeds maximum protobuf size of 2GB")

    monkeypatch.setattr(onnx.ModelProto, "SerializeToString", refuse, raising=False)
    with pytest.raises(OnnxPruneError, match="nothing was written") as caught:
        save(graph, tmp_path / "out.onnx")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_mappings_go_with_their_arrays(small: Path) -> None:
    """The kernel allows a process 65,530 mappings: a model may have more weights than that."""
    graph = load(small)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc here")
    for weight in graph.weights.values():
        assert isinstance(weight.array, np.memmap)
    assert str(small.parent) not in maps.read_text()
