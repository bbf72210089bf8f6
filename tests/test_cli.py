"""The command line: every command's help, JSON, quiet and exit code; options that match the API."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune import api, cli
from onnxprune.cli import main
from onnxprune.core.contracts import CRITERIA, REPAIRS, SOURCES
from onnxprune.core.rules import OP_RULES
from onnxprune.core.sparsity import SPARSIFIERS
from onnxprune.discover import discover
from onnxprune.pipeline.request import PruneRequest
from tests.networks import NETWORKS

COMMANDS = {
    str(c.name or c.callback.__name__): c.callback
    for c in cli.app.registered_commands
    if c.callback
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, samples with labels, a pruned model and its plan; one works in it."""
    monkeypatch.chdir(tmp_path)
    onnx.save(NETWORKS["chain"].model(), "chain.onnx")
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((40, 3, 8, 8)).astype(np.float32)
    np.savez("data.npz", x=samples, labels=rng.integers(0, 5, 40))
    assert main(["prune", "chain.onnx", "-o", "small.onnx", "--ratio", "0.5", "-q"]) == 0
    return tmp_path


# One call of every command that succeeds, with keys that its JSON must have.
CALLS: dict[str, tuple[list[str], set[str]]] = {
    "inspect": (["inspect", "chain.onnx"], {"groups", "frozen", "opaque", "total", "least"}),
    "prune": (
        ["prune", "chain.onnx", "--data", "data.npz", "--labels", "labels", "--macs", "0.5"],
        {"figures", "widths", "proof", "evaluation", "latency", "output", "plan"},
    ),
    "sparsify": (
        ["sparsify", "chain.onnx", "--data", "data.npz", "--sparsity", "2:4"],
        {"layers", "before", "after", "evaluation", "latency", "output"},
    ),
    "eval": (
        [
            "eval",
            "small.onnx",
            "--data",
            "data.npz",
            "--labels",
            "labels",
            "--reference",
            "chain.onnx",
        ],
        {"accuracy", "agreement", "errors", "samples"},
    ),
    "score": (
        ["score", "chain.onnx", "--data", "data.npz", "--criterion", "l1,wanda"],
        {"criteria", "groups"},
    ),
    "report": (["report", "small.plan.json", "-o", "page.html"], {"page"}),
    "bench": (
        ["bench", "chain.onnx", "small.onnx", "--seconds", "0.02", "--lives", "2"],
        {"models", "cells", "provider", "machine", "kernels", "notes"},
    ),
    "retrain": (
        [
            "retrain",
            "small.onnx",
            "--teacher",
            "chain.onnx",
            "--data",
            "data.npz",
            "-o",
            "new.onnx",
        ],
        {"steps", "resumed", "losses", "seconds"},
    ),
    "verify": (
        ["verify", "small.onnx", "--plan", "small.plan.json", "--original", "chain.onnx"],
        {"model", "plan", "proof"},
    ),
    "list": (["list", "criteria"], {"l2", "reconstruction"}),
    "doctor": (["doctor"], {"providers", "packages", "problems"}),
    "demo": (["demo"], {"report", "test"}),
}
every_command = pytest.mark.parametrize("command", CALLS)


def test_every_command_has_a_call() -> None:
    assert set(COMMANDS) == set(CALLS)


@every_command
def test_help_is_the_docstring(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0

    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert " ".join((COMMANDS[command].__doc__ or "missing").split()) in shown


@every_command
def test_json_is_alone_on_stdout(
    command: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del home
    words, keys = CALLS[command]

    assert main([*words, "--json"]) == 0

    printed = capsys.readouterr()
    assert keys <= set(json.loads(printed.out))
    assert printed.err == "", "no progress where there is no terminal"


@every_command
def test_tables_say_something_and_quiet_says_nothing(
    command: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del home
    words, _ = CALLS[command]

    assert main(words) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 1
    assert main([*words, "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_prune_prints_before_and_after(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del home
    assert main(CALLS["prune"][0]) == 0

    shown = capsys.readouterr().out
    for word in ("MACs", "parameters", "file", "latency", "accuracy", "proved", "w1", "held-out"):
        assert word in shown, word
    assert "wrote chain.pruned.onnx and chain.pruned.plan.json" in shown


def test_verbose_adds_a_line_per_step(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del home
    assert main(["prune", "chain.onnx", "--ratio", "0.5", "-v"]) == 0

    said = capsys.readouterr().err
    assert all(
        f"{step}: " in said for step in ("load", "analyse", "select", "cut", "prove", "write")
    )


@pytest.mark.parametrize("what", ["ops", "criteria", "repairs", "methods", "sources"])
def test_list_shows_every_entry(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    discover()
    expected = {
        "ops": [rule.op_type for rule in OP_RULES.all()],
        "criteria": list(CRITERIA), "repairs": list(REPAIRS), "sources": list(SOURCES),
        "methods": list(SPARSIFIERS),
    }[what]  # fmt: skip

    assert main(["list", what, "--json"]) == 0

    listed = json.loads(capsys.readouterr().out)
    assert {name.split(" (")[0] for name in listed} == set(expected)
    assert all(text.strip() for text in listed.values()), "everything says what it is"


def _parameters(function: Any) -> dict[str, Any]:
    return {name: p.default for name, p in inspect.signature(function).parameters.items()}


FACES = {"json", "quiet", "verbose"}  # how a command speaks
REPEATABLE = {"keep", "unlock", "drop_block", "group"}  # None on the command line, () in Python


def test_prune_has_the_same_options_on_both_faces() -> None:
    """Same names, same defaults; `--no-verify` is the flag form of `verify`."""
    shell = _parameters(COMMANDS["prune"])
    python = {f.name: f.default for f in dataclasses.fields(PruneRequest)}
    assert set(shell) - FACES - {"no_verify"} == set(python) - {"progress", "verify", "_"}
    for name in set(shell) & set(python) - {"model"}:
        assert shell[name] == (None if name in REPEATABLE else python[name]), name
    assert {python[name] for name in REPEATABLE & set(python)} == {()}
    assert (shell["no_verify"], python["verify"]) == (False, True)


@pytest.mark.parametrize(
    ("command", "function"),
    [("inspect", api.inspect), ("eval", api.evaluate), ("verify", api.verify)],
)
def test_others_have_the_same_options_on_both_faces(command: str, function: Any) -> None:
    shell, python = _parameters(COMMANDS[command]), _parameters(function)
    assert set(shell) - FACES == set(python) - {"progress"}
    for name in set(shell) & set(python):
        assert shell[name] == (None if name in REPEATABLE else python[name]), name


def test_bugs_show_a_traceback_and_exit_with_1(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del home

    def broken(*_: object, **__: object) -> None:
        raise KeyError("gone")

    monkeypatch.setattr(api, "inspect", broken)

    assert main(["inspect", "chain.onnx"]) == 1

    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "KeyError: 'gone'" in shown
    assert "this is a bug of onnxprune" in shown


def test_the_module_runs_as_a_program(home: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "onnxprune.cli", "inspect", "nothing.onnx", "--json"],
        cwd=home, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip

    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("onnxprune: cannot read 'nothing.onnx'")


def test_the_demo_shows_what_the_readme_promises(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "here", "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    macs = found["report"]["figures"]["macs"]
    assert macs["after"] < 0.3 * macs["before"]
    assert found["report"]["proof"]["gap"] < 1e-5
    assert found["test"]["samples"] == 450
    assert found["test"]["reference"]["top1"] > 0.99
    assert found["test"]["accuracy"]["top1"] > 0.98
    assert (home / "here" / "digits.pruned.onnx").is_file()
