"""Bad input, one line of the promise after the other: one line, exit 2, nothing written."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, external_data_helper, helper

from onnxprune.cli import main
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


def chain() -> ModelProto:
    return NETWORKS["chain"].model()


def not_onnx() -> None:
    Path("m.onnx").write_text("import numpy as np\n" * 50)


def truncated() -> None:
    Path("m.onnx").write_bytes(Path("m.onnx").read_bytes()[:-500])


def empty() -> None:
    Path("m.onnx").write_bytes(b"")


def missing() -> None:
    Path("m.onnx").unlink()


def external_missing() -> None:
    onnx.save(chain(), "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    Path("m.bin").unlink()


def external_outside() -> None:
    model = chain()
    external_data_helper.convert_model_to_external_data(model, location="m.bin", size_threshold=0)
    onnx.save(model, "m.onnx")
    shutil.move("m.bin", "../m.bin")
    model = onnx.load("m.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../m.bin"
    Path("m.onnx").write_bytes(model.SerializeToString())


def opset_too_new() -> None:
    model = chain()
    model.opset_import[0].version = 99
    Path("m.onnx").write_bytes(model.SerializeToString())


def ir_too_new() -> None:
    model = chain()
    model.ir_version = 99
    Path("m.onnx").write_bytes(model.SerializeToString())


def unknown_op() -> None:
    model = chain()
    model.graph.node[2].op_type = "Rellu"
    Path("m.onnx").write_bytes(model.SerializeToString())


def damaged(damage: Callable[[ModelProto], None]) -> Callable[[], None]:
    """Return what damages the message of the good model and writes it."""

    def write() -> None:
        model = chain()
        damage(model)
        Path("m.onnx").write_bytes(model.SerializePartialToString())

    write.__name__ = damage.__name__
    return write


@damaged
def no_text(model: ModelProto) -> None:
    model.ParseFromString(model.SerializeToString().replace(b"n_scale", b"n_\xff\xfe\xfdle"))


@damaged
def opset_below_one(model: ModelProto) -> None:
    model.opset_import[0].version = -3


@damaged
def endless_calls(model: ModelProto) -> None:
    node = helper.make_node("f", ["a"], ["b"], domain="own")
    opsets = [helper.make_opsetid("own", 1)]
    model.functions.append(helper.make_function("own", "f", ["a"], ["b"], [node], opsets))
    model.opset_import.extend(opsets)


@damaged
def doubling_calls(model: ModelProto) -> None:
    """Forty functions, each of which calls the one before twice: 2^40 nodes."""
    opsets = [helper.make_opsetid("own", 1), helper.make_opsetid("", 17)]
    model.opset_import.append(opsets[0])
    for level in range(40):
        inner, domain = (f"f{level - 1}", "own") if level else ("Relu", "")
        nodes = [helper.make_node(inner, [a], [b], domain=domain) for a, b in ("at", "tb")]
        model.functions.append(
            helper.make_function("own", f"f{level}", ["a"], ["b"], nodes, opsets)
        )


@damaged
def giant_input(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 10**12


@damaged
def giant_constant(model: ModelProto) -> None:
    """A constant of 4 TB, made of two numbers."""
    shape = onnx.numpy_helper.from_array(np.array([10**6, 10**6]), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["shape"], ["bomb"]))
    model.graph.node.insert(1, helper.make_node("ReduceMean", ["bomb"], ["calm"], keepdims=0))
    model.graph.node.insert(2, helper.make_node("Add", ["x", "calm"], ["joined"]))
    model.graph.node[3].input[0] = "joined"


@damaged
def hundred_axes(model: ModelProto) -> None:
    model.graph.initializer[0].dims.extend([1] * 96)


@damaged
def segment(model: ModelProto) -> None:
    model.graph.initializer[0].segment.end = 10


@damaged
def unknown_type_of_input(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 99


@damaged
def control_characters(model: ModelProto) -> None:
    model.graph.node[0].op_type = "\x1b[2JConv"


def linked_data() -> None:
    onnx.save(chain(), "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    Path("m.bin").rename("real.bin")
    Path("m.bin").symlink_to("real.bin")


def endless_name() -> None:
    external_data(chain(), "x" * 5000)


def external_data(model: ModelProto, location: str) -> None:
    """Write the model with data in a file that is not there."""
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    Path("m.onnx").write_bytes(model.SerializeToString())


def pipe() -> None:
    Path("m.onnx").unlink()
    os.mkfifo("m.onnx")


MODELS: list[tuple[Callable[[], None], str]] = [
    (not_onnx, "not an ONNX file"),
    (truncated, "truncated"),
    (empty, "is empty"),
    (missing, "No such file"),
    (external_missing, "m.bin"),
    (external_outside, "../m.bin"),
    (opset_too_new, "opset 99"),
    (ir_too_new, "IR version 99"),
    (unknown_op, "Rellu"),
    (no_text, "no UTF-8 text"),
    (opset_below_one, "opset -3"),
    (endless_calls, "calls itself"),
    (doubling_calls, "inlined"),
    (giant_input, "ONNXPRUNE_MEMORY"),
    (giant_constant, "ONNXPRUNE_MEMORY"),
    (hundred_axes, "100 axes"),
    (segment, "segment"),
    (unknown_type_of_input, "unknown element type 99"),
    (control_characters, "\\x1b[2JConv"),
    (linked_data, "a link to"),
    (endless_name, "File name too long"),
    (pipe, "no regular file"),
]


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
