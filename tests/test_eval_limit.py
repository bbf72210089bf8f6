"""`eval --max-drop`: the exit code tells a build whether a model lost more than allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxprune import prune
from onnxprune.cli import main


@pytest.fixture(scope="module")
def home(home: Path) -> Path:
    """The digits, and one that was cut without repair: it is worse by some per cent."""
    prune(home / "digits.onnx", home / "bad.onnx", macs=0.8)
    return home


def run(home: Path, *options: str) -> int:
    model, data = str(home / "bad.onnx"), str(home / "test.npz")
    return main(["eval", model, "--data", data, *options])


def drop(home: Path, capsys: pytest.CaptureFixture[str]) -> float:
    reference = str(home / "digits.onnx")
    assert run(home, "--labels", "labels", "--reference", reference, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    return float(found["reference"]["top1"] - found["accuracy"]["top1"])


def test_exit_code_follows_the_drop(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = drop(home, capsys)
    both = ["--labels", "labels", "--reference", str(home / "digits.onnx")]
    assert 0.005 < lost < 0.8

    assert run(home, *both, "--max-drop", f"{lost + 1e-6:.8f}") == 0
    assert capsys.readouterr().err == ""
    assert run(home, *both, "--max-drop", f"{lost - 1e-6:.8f}") == 2
    found = capsys.readouterr()
    assert "accuracy" in found.out  # the table is printed all the same
    assert f"the drop of accuracy on 450 samples is {lost:.2%}" in found.err
    assert found.err.count("\n") == 1
    assert run(home, *both, "--max-drop", f"{lost + 1e-6:.8f}", "--confidence", "0.95") == 2
    assert "at 95% confidence up to" in capsys.readouterr().err


def test_agreement_and_error_need_no_labels(home: Path) -> None:
    reference = ["--reference", str(home / "digits.onnx"), "-q"]
    assert run(home, *reference, "--max-drop", "95%") == 0
    assert run(home, *reference, "--max-drop", "0.1%") == 2
    assert run(home, *reference, "--max-drop", "0.1%", "--metric", "error") == 2
    same = ["eval", str(home / "digits.onnx"), "--data", str(home / "test.npz")]
    assert main([*same, *reference, "--max-drop", "0%"]) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--labels labels --max-drop 1%", "give --reference"),
        ("--labels labels --metric accuracy", "with --max-drop only"),
        ("--reference digits.onnx --max-drop 1% --metric accuracy", "needs --labels"),
        ("--reference digits.onnx --max-drop 1% --metric speed", "--metric 'speed'"),
        ("--reference digits.onnx --max-drop 1% --confidence 1", "--confidence 1.0"),
        ("--reference digits.onnx --max-drop x", "--max-drop x"),
    ],
)
def test_refuses(home: Path, options: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(home / w) if w.endswith(".onnx") else w for w in options.split()]
    assert run(home, *words) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
