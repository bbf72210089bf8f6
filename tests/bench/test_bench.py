"""bench: here, by a target's shell, by a bundle; and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune import OnnxPruneError, bench
from onnxprune.cli import main
from onnxprune.timing.job import BenchRequest, write_job
from onnxprune.timing.run import BenchReport
from tests.networks import NETWORKS

QUICK = ["--seconds", "0.05", "--lives", "2"]


pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model and a pruned one; one works there."""
    monkeypatch.chdir(tmp_path)
    onnx.save(NETWORKS["chain"].model(), "a.onnx")
    assert main(["prune", "a.onnx", "-o", "b.onnx", "--ratio", "0.5", "-q"]) == 0
    return tmp_path


def timed(*options: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Run `bench --json`, which must succeed."""
    code = main(["bench", "a.onnx", "b.onnx", *options, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return dict(json.loads(out))


def test_here(capsys: pytest.CaptureFixture[str]) -> None:
    found = timed(*QUICK, "--batch", "1,4", "--threads", "1", capsys=capsys)
    assert [(c["batch"], c["threads"]) for c in found["cells"]] == [(1, 1), (4, 1)]
    assert found["provider"] == "CPUExecutionProvider"
    first, second = found["models"]
    assert second["macs"] < first["macs"]
    assert second["bytes"] == Path("b.onnx").stat().st_size
    assert all(model["load"] > 0 for model in (first, second))
    assert {"Conv"} <= {op.removeprefix("Fused") for op in found["kernels"]}
    assert main(["bench", "a.onnx", "b.onnx", *QUICK]) == 0
    text = capsys.readouterr().out
    assert "b.onnx" in text
    assert "times as fast" in text


def test_samples_are_repeated_to_fill_a_batch(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    (tmp_path / "job").mkdir()
    write_job(
        BenchRequest((Path("a.onnx"),), data={"x": x}, batches=(1, 5)), tmp_path / "job", copy=True
    )
    with np.load(tmp_path / "job" / "feeds" / "5-0.npz") as held:
        five = held["x"]
    with np.load(tmp_path / "job" / "feeds" / "1-0.npz") as held:
        one = held["x"]
    assert np.array_equal(five[3:], five[:2])
    assert np.array_equal(np.unique(five[:3], axis=0), np.unique(x, axis=0))
    assert any(np.array_equal(one[0], row) for row in x)


def test_a_target_by_its_shell(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("there").mkdir()
    Path("device.toml").write_text(
        f'shell = ["sh", "-c"]\npython = "{sys.executable}"\nfolder = "{home}/there/bench"\n'
    )
    found = timed(*QUICK, "--target", "device.toml", capsys=capsys)
    assert len(found["cells"]) == 1
    assert list(Path("there").iterdir()) == []  # tidied up


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("shell = 3", "'shell'"),
        ("shell = []", "'shell'"),
        ('shell = ["sh", "-c"]\nhost = "x"', "'host'"),
        ("shell = [", "cannot read target"),
        ('shell = ["no-such-shell"]', "cannot run 'no-such-shell'"),
        ('shell = ["sh", "-c"]\npython = "no-such-python"', "no-such-python"),
        ('shell = ["sh", "-c", "exit 3", "sh"]', "ended with 3"),
    ],
)
def test_targets_that_fail_say_why(
    text: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("device.toml").write_text(text)
    refused("--target", "device.toml", expected=expected, capsys=capsys)


def test_a_bundle_comes_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "a.onnx", "b.onnx", *QUICK, "--bundle", "away.zip"]) == 0
    with zipfile.ZipFile("away.zip") as archive:
        archive.extractall("elsewhere")
    folder = Path("elsewhere", "away")
    subprocess.run(
        [sys.executable, "-I", "run.py", "."], cwd=folder, check=True, capture_output=True
    )
    capsys.readouterr()
    found = timed("--result", str(folder / "result.json"), capsys=capsys)
    assert len(found["models"]) == 2

    text = (folder / "result.json").read_text()
    for name, broken in {
        "cut": text[:-9],
        "other": text.replace("a.onnx", "c.onnx"),
        "short": text.replace('"models": [{"load"', '"models": [], "x": [{"load"'),
        "nan": text.replace('"load": ', '"load": NaN, "was": '),
    }.items():
        Path(name).write_text(broken)
        refused("--result", name, expected="result", capsys=capsys)


def refused(*options: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Assert that `bench` fails in one line."""
    code = main(["bench", "a.onnx", "b.onnx", *QUICK, *options])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("onnxprune: ")
    assert err.count("\n") == 1
    assert expected in err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--batch", "0"], "--batch: expected numbers of at least 1"),
        (["--batch", "two"], "expected whole numbers"),
        (["--threads", "-1"], "--threads: expected numbers of at least 0"),
        (["--lives", "1"], "expected at least 2"),
        (["--seconds", "0"], "expected more than 0"),
        (["--seconds", "nan"], "expected more than 0"),
        (["--confidence", "1"], "below 1"),
        (["--provider", "abacus"], "no provider 'abacus'"),
        (["--result", "nowhere.json"], "cannot read 'nowhere.json'"),
        (["--bundle", "nowhere/x.zip"], "there is no folder 'nowhere'"),
    ],
)
def test_nonsense_is_refused(
    options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(*options, expected=expected, capsys=capsys)


def test_a_fixed_batch_and_other_inputs_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = NETWORKS["chain"].model()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, "b.onnx")
    refused("--batch", "4", expected="export the model with a dynamic batch", capsys=capsys)
    model.graph.input[0].name = "other"
    model.graph.node[0].input[0] = "other"
    onnx.save(model, "b.onnx")
    refused(expected="only models with the same inputs", capsys=capsys)


def test_a_model_that_the_runner_cannot_load_is_said() -> None:
    Path("b.onnx").write_bytes(b"nothing")
    with pytest.raises(OnnxPruneError, match=r"b\.onnx"):
        bench("a.onnx", "b.onnx")


def test_a_single_model_is_timed_too() -> None:
    found = bench("a.onnx", seconds=0.05, lives=2, profile=False)
    assert isinstance(found, BenchReport)
    assert (len(found.models), found.kernels) == (1, {})
