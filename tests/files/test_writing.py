"""Models are written whole or not at all, and never over what they came from unless asked."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.graph import Graph
from onnxprune.files.store import load, save
from tests.files.common import CHAIN, outputs


def listing(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


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
