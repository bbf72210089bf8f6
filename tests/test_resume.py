"""`--work`: killed at any moment and run again, the result is that of a run without a kill, byte for byte.

What a work folder holds is believed only if it is whole and of the very same run.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.cli import main
from onnxprune.core.graph import Array
from onnxprune.core.samples import Samples
from onnxprune.pipeline.memory import Memory, content
from tests.networks import NETWORKS

RUNS = {
    "prune": 'prune("m.onnx", "out.onnx", data="x.npz", criterion="cmi:alpha=2,mode=paper,tolerance=1", '
    'work="work", round_to=1, progress=event)',
    "score": 'score("m.onnx", data="x.npz", criterion="cmi:alpha=2,mipp,reconstruction", work="work", '
    "progress=event)",
}
# Progress and every flush to the disk are events; the run kills itself at one of them. At a flush a
# file of the memory, or of the result, is half way to its name.
SCRIPT = """
import os, signal, sys
from onnxprune import prune, score
left = int(sys.argv[1])
def event(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
flush = os.fsync
def fsync(file):
    event()
    flush(file)
os.fsync = fsync
{}
print(-left)
"""


@pytest.fixture
def home(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A model and samples for it."""
    onnx.save(NETWORKS["chain"].model(), tmp_path / "m.onnx")
    shape = [d.dim_value for d in NETWORKS["chain"].graph().inputs[0].type.tensor_type.shape.dim]
    x = rng.standard_normal((120, *shape[1:])).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    return tmp_path


def ran(folder: Path, call: str, kill_at: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.format(call), str(kill_at)],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def written(folder: Path) -> dict[str, bytes]:
    """All files, those of the memory included; what a kill left half-written has a name with a dot."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_kills_change_nothing(name: str, home: Path, rng: np.random.Generator) -> None:
    other = home.with_name(f"{home.name}-killed")
    shutil.copytree(home, other)
    whole = ran(home, RUNS[name], 0)
    assert whole.returncode == 0, whole.stderr
    events = int(whole.stdout)
    assert events > 10

    for moment in rng.integers(events // 4, events, 2):  # the later ones come to their end sooner
        killed = ran(other, RUNS[name], int(moment))
        assert killed.returncode in {-signal.SIGKILL, 0}
    resumed = ran(other, RUNS[name], 0)

    assert resumed.returncode == 0, resumed.stderr
    alike, found = written(home), written(other)
    assert found.keys() == alike.keys()
    assert [name for name in alike if alike[name] != found[name]] == []


@pytest.fixture
def worked(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder after a run that remembered everything."""
    monkeypatch.chdir(home)
    assert scored("first.json") == 0
    return home


def scored(output: str, *more: str) -> int:
    command = ["score", "m.onnx", "--data", "x.npz", "-o", output, "--work", "work"]
    return main([*command, "--criterion", "cmi:alpha=2,mipp,reconstruction", *more])


def entries(home: Path) -> list[Path]:
    return sorted((home / "work").rglob("*.npz"))


def test_what_is_remembered_is_not_computed_again(
    worked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    for computed in ("cmi.ordered", "mipp.judged", "reconstruction.Elimination"):
        monkeypatch.setattr(f"onnxprune.passes.criteria.{computed}", refuse)

    assert scored("again.json") == 0
    assert (worked / "again.json").read_bytes() == (worked / "first.json").read_bytes()


def _flipped(path: Path) -> None:
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 1
    path.write_bytes(held)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: os.truncate(path, 0),
    "a bit flipped": _flipped,
    "not ours": lambda path: np.savez(path, order=np.arange(3)),
    "text": lambda path: path.write_text("order"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_noticed_and_made_good(
    worked: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = written(worked)
    for path in entries(worked):
        DAMAGE[damage](path)

    with caplog.at_level(logging.WARNING, "onnxprune"):
        assert scored("first.json") == 0

    assert written(worked) == before
    assert len(caplog.messages) == len(entries(worked)) > 3
    assert all("is made anew" in message for message in caplog.messages)


def test_files_in_the_place_of_others_are_noticed(worked: Path) -> None:
    """Every entry in the next one's place, and those of other settings in this run's folder."""
    before = written(worked)
    assert scored("other.json", "--seed", "1") == 0
    (worked / "other.json").unlink()
    folders = {path.parent for path in entries(worked)}
    ours = {worked / Path(name).parent for name in before if name.endswith(".npz")} & folders
    for path in entries(worked):
        twins = [folder / path.name for folder in folders - {path.parent}]
        twin = next((t for t in twins if t.exists() and path.parent in ours), None)
        if twin is not None:
            shutil.copy(twin, path)
    first, second, *_ = sorted(path for path in entries(worked) if path.parent in ours)
    shutil.copy(first, second)

    assert scored("first.json") == 0

    now = written(worked)
    assert {name: now[name] for name in before} == before


def _other_weight(home: Path) -> None:
    model = onnx.load(home / "m.onnx")
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    array = onnx.numpy_helper.to_array(tensor).copy()
    array.flat[7] += 0.5
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(model, home / "m.onnx")


def _other_values(home: Path) -> None:
    """One value in half of the samples."""
    x = np.load(home / "x.npz")["x"].copy()
    x[1::2].reshape(60, -1)[:, -3] += 4
    np.savez(home / "x.npz", x=x)


FOREIGN: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "model": (_other_weight, ()),
    "data": (_other_values, ()),
    "samples": (lambda _: None, ("--samples", "64")),
    "seed": (lambda _: None, ("--seed", "3")),
    "rows": (lambda _: None, ("--rows", "5")),
    "settings": (lambda _: None, ("--criterion", "cmi:alpha=3,mipp:nulls=2")),
    "unlock": (lambda _: None, ("--unlock", "input:x")),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_folder_of_another_run_is_not_believed(worked: Path, what: str) -> None:
    change, options = FOREIGN[what]
    change(worked)
    assert scored("shared.json", *options) == 0

    shutil.rmtree(worked / "work")
    assert scored("alone.json", *options) == 0

    assert (worked / "shared.json").read_bytes() == (worked / "alone.json").read_bytes()
    assert (worked / "shared.json").read_bytes() != (worked / "first.json").read_bytes()


def test_what_cannot_be_read_is_one_line(worked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = entries(worked)[0]
    path.unlink()
    path.mkdir()

    assert scored("again.json") == 2

    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{path.name}': Is a directory; remove it, or choose another --work" in said
    assert not (worked / "again.json").exists()


def test_what_decides_is_all_that_tells_folders_apart(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, Array]:
        made.append(1)
        return {"a": np.arange(3)}

    for decided_by in ({"x": 1, "y": 2}, {"y": 2, "x": 1}, {"x": 1, "y": 3}):
        found = Memory(tmp_path, decided_by)("part", make)
        assert found["a"].tolist() == [0, 1, 2]

    assert len(made) == 2


def test_content_sees_every_value_and_label() -> None:
    def of(x: Array, y: Array) -> str:
        return content(samples_of(x, y))

    x, y = np.zeros((100, 5), np.float32), np.zeros(100, np.int64)
    last, label = x.copy(), y.copy()
    last[99, 4], label[70] = 1, 1

    hashes = [of(x, y), of(last, y), of(x, label), of(x.reshape(100, 5, 1), y), of(x[:99], y[:99])]
    assert len(set(hashes)) == len(hashes)
    assert of(x, y) == of(x.copy(), y.copy())


def samples_of(x: Array, y: Array) -> Samples:
    return Samples(len(x), lambda a, b: {"x": x[a:b], "y": y[a:b]}, extra=("y",))
