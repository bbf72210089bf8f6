"""Bad input, one line of the promise after the other: one line, exit 2, nothing written."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxprune.cli import main
from tests.damaged import MODELS, chain
from tests.networks import NETWORKS

SAMPLES = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a good model `m.onnx` and good samples `good.npz`; one works in it."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    onnx.save(NETWORKS["chain"].model(), "m.onnx")
    np.savez("good.npz", x=SAMPLES)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()
    }


def refused(words: list[str], home: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail as promised; return what it said."""
    before = content(home)

    code = main(words)

    printed = capsys.readouterr()
    assert code == 2, printed.err
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1, printed.err
    assert content(home) == before, "nothing written, original untouched"
    return printed.err


@pytest.mark.parametrize(("damage", "said"), MODELS, ids=lambda v: getattr(v, "__name__", ""))
@pytest.mark.parametrize("command", ["prune", "inspect"])
def test_bad_models(
    command: str,
    damage: Callable[[], None],
    said: str,
    home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage()
    budget = ["--ratio", "0.5"] if command == "prune" else []

    assert said in refused([command, "m.onnx", *budget], home, capsys)


def test_weights_that_are_not_finite_are_named(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = chain()
    tensor = model.graph.initializer[0]
    tensor.raw_data = np.float32(np.nan).tobytes() + tensor.raw_data[4:]
    onnx.save(model, "m.onnx")

    said = refused(["prune", "m.onnx", "--ratio", "0.5"], home, capsys)

    assert f"weight '{tensor.name}' holds values that are not finite or overflow" in said


def test_archives_that_fill_the_memory(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez_compressed("bad.npz", x=np.zeros((100_000, 3, 8, 8), np.float32))

    words = ["prune", "m.onnx", "--macs", "0.5", "--data", "bad.npz"]
    assert "to fill the memory" in refused(words, home, capsys)


@pytest.mark.usefixtures("home")
def test_samples_that_never_change() -> None:
    """Nothing can be learnt from them, and nothing breaks."""
    np.savez("still.npz", x=np.full((16, 3, 8, 8), 0.3, np.float32))

    for repair in ("least-squares", "sequential"):
        words = ["prune", "m.onnx", "--ratio", "0.5", "--round-to", "1", "--data", "still.npz"]
        assert main([*words, "--repair", repair, "-o", f"{repair}.onnx", "--quiet"]) == 0


ARRAYS: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "wrong name": ({"a": SAMPLES, "b": SAMPLES}, "'a' and 'b' both fit input 'x'"),
    "wrong rank": ({"x": SAMPLES[:, 0]}, "has 3 axes [8, 8, 8]"),
    "wrong shape": ({"x": SAMPLES[:, :2]}, "axis 1 should be 3"),
    "channels last": ({"x": SAMPLES.transpose(0, 2, 3, 1)}, "move the last axis to place 1"),
    "wrong dtype": ({"x": SAMPLES.astype(complex)}, "complex128"),
    "text": ({"x": np.array(["a", "b"])}, "input 'x' takes"),
    "nan": ({"x": np.where(np.arange(8)[:, None, None, None] == 5, np.nan, SAMPLES)}, "in sample 5"),
    "infinity": ({"x": np.where(SAMPLES > 2, np.inf, SAMPLES)}, "infinity"),
    "no samples": ({"x": SAMPLES[:0]}, "no samples"),
    "no arrays": ({}, "holds no arrays"),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_bad_arrays(name: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays, said = ARRAYS[name]
    np.savez("bad.npz", **arrays)  # type: ignore[arg-type]  # names of arrays are no options

    words = ["prune", "m.onnx", "--macs", "0.5", "--data", "bad.npz"]
    assert said in refused(words, home, capsys)


OPTIONS: dict[str, tuple[list[str], str]] = {
    "no such data": (["--macs", "0.5", "--data", "nothing.npz"], "nothing.npz"),
    "unknown form of data": (["--macs", "0.5", "--data", "nothing"], "expected one of"),
    "no such labels": (["--macs", "0.5", "--data", "good.npz", "--labels", "y"], "no such key"),
    "labels without data": (["--macs", "0.5", "--labels", "y"], "needs --data"),
    "out of reach": (["--macs", "0.001"], "the least reachable is"),
    "out of reach with data": (["--macs", "0.001", "--data", "good.npz"], "the least reachable is"),
    "share above one": (["--macs", "1.5"], "--macs 1.5 is no budget"),
    "negative": (["--params", "-3"], "-3"),
    "word": (["--size", "small"], "--size small is no budget"),
    "nan": (["--ratio", "nan"], "--ratio nan is no budget"),
    "met already": (["--size", "1GB"], "met already"),
    "no budget": ([], "expected one budget"),
    "two budgets": (["--macs", "0.5", "--size", "1MB"], "found --macs and --size"),
    "unknown criterion": (["--macs", "0.5", "--criterion", "wandda"], "did you mean 'wanda'"),
    "unknown repair": (["--macs", "0.5", "--repair", "meen"], "did you mean 'mean'"),
    "criterion without data": (["--macs", "0.5", "--criterion", "wanda"], "give --data"),
    "repair without data": (["--macs", "0.5", "--repair", "mean"], "give --data"),
    "keep that matches nothing": (["--macs", "0.5", "--keep", "w9"], "nearest name is 'w"),
    "everything kept": (["--macs", "0.5", "--keep", "*"], "no group"),
    "unknown option": (["--mac", "0.5"], "--mac"),
    "no number": (["--macs", "0.5", "--rows", "many"], "--rows"),
    "unknown provider": (["--macs", "0.5", "--provider", "cpuu"], "did you mean 'cpu'"),
    "output is input": (["--ratio", "0.5", "-o", "m.onnx"], "give --overwrite"),
    "output is input by another name": (["--ratio", "0.5", "-o", "../home/m.onnx"], "--overwrite"),
    "no such folder": (["--ratio", "0.5", "-o", "nowhere/out.onnx"], "no folder 'nowhere'"),
    "no such plan": (["--plan", "nothing.json"], "nothing.json"),
    "plan that is none": (["--plan", "good.npz"], "is not a plan"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_bad_options(name: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, said = OPTIONS[name]

    assert said in refused(["prune", "m.onnx", *words], home, capsys)


def test_nothing_prunable_says_why_per_reason(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An op without a rule in the middle freezes what it touches; the head is an output."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,4] x) => (float[N,2] y) {
            a = MatMul(x, w1)
            b = Compress<axis=1>(a, all)
            y = MatMul(b, w2)
        }"""
    )
    for name, shape in {"w1": (4, 8), "w2": (8, 2)}.items():
        values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(8, np.bool_), "all"))
    onnx.save(model, "m.onnx")

    said = refused(["prune", "m.onnx", "--ratio", "0.5"], home, capsys)

    assert "nothing can be removed" in said
    assert "no rule for op Compress (1 node: " in said


def test_inspect_of_nothing_prunable_still_answers(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        "m.onnx",
    )

    assert main(["inspect", "m.onnx"]) == 0
    assert "least reachable" in capsys.readouterr().out
    said = refused(["prune", "m.onnx", "--ratio", "0.5"], home, capsys)
    assert "no convolution or matrix product" in said


def test_disk_full_while_writing_leaves_no_half_file(home: Path) -> None:
    """The limit on file size makes the write itself fail, as a full disk would."""
    before = content(home)

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "onnxprune.cli", "prune", "m.onnx", "-o", "out.onnx", "--ratio", "0.25",
         "--round-to", "1"],
        env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=home, preexec_fn=small_files, capture_output=True, text=True, timeout=120,
    )  # fmt: skip

    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "nothing was written" in done.stderr
    assert content(home) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["eval", "m.onnx", "--data", "good.npz"], "give --labels KEY, --reference MODEL"),
        (["eval", "m.onnx"], "--data"),
        (["eval", "m.onnx", "--data", "good.npz", "--labels", "y"], "no such key"),
        (["eval", "m.onnx", "--data", "good.npz", "--reference", "nothing.onnx"], "nothing.onnx"),
        (["verify", "m.onnx", "--plan", "nothing.json"], "nothing.json"),
        (["list", "everything"], "known: ops, criteria, depth, repairs"),
        (["polish"], "polish"),
    ],
    ids=lambda v: "-".join(v[:2]) if isinstance(v, list) else "",
)
def test_other_commands(
    words: list[str], said: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(words, home, capsys)
