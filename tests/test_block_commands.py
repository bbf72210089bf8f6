"""Blocks on the command line: listed by `inspect --blocks`, left out by `prune --drop-block`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune import api
from onnxprune.cli import main
from onnxprune.plan import read_plan
from tests.networks import NETWORKS
from tests.perturbation import perturb
from tests.streams import FUSED, long_skip, stack


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `stack.onnx`, three post-norm blocks of a norm and a feed-forward half each."""
    monkeypatch.chdir(tmp_path)
    onnx.save(stack(FUSED, post=True, depth=3), "stack.onnx")
    return tmp_path


# -- inspect ----------------------------------------------------------------------------------------


def test_inspect_lists_blocks(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What they hold is what the table of weights and the counted run say."""
    del home
    assert main(["inspect", "stack.onnx", "--blocks", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    blocks = {b["name"]: b for b in found["blocks"]["blocks"]}
    positions = found["inputs"]["u"][0] * found["inputs"]["u"][1]

    assert list(blocks) == ["n0", "s0", "n1", "s1", "n2", "s2"]
    assert blocks["n1"] == {
        "name": "n1", "kind": "post-norm", "start": "n0", "end": "n1", "params": 2 * 8 * 12 + 16,
        "macs": positions * 2 * 8 * 12, "nodes": 5, "sides": [], "level": 0, "parent": None,
        "parts": [],
    }  # fmt: skip
    assert {(b["level"], b["parent"]) for b in blocks.values() if b["kind"] == "residual"} == {
        (1, "n0"), (1, "n1"), (1, "n2"),
    }  # fmt: skip
    assert found["blocks"]["params"] == 3 * (2 * 8 * 12 + 16)
    assert found["blocks"]["macs"] == 3 * positions * 2 * 8 * 12
    assert found["blocks"]["macs"] + positions * (8 * 8 + 8 * 3) == found["total"]["macs"]


def test_inspect_shows_blocks_in_blocks(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(long_skip(), home / "long.onnx")
    assert main(["inspect", "long.onnx", "--blocks"]) == 0

    shown = " ".join(capsys.readouterr().out.split())
    for row in ("│ s │ residual │ x │ s │", "│ c │ residual │ x │ c │", "2 of them in others"):
        assert row in shown, row


def test_inspect_without_blocks(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(NETWORKS["chain"].model(), home / "chain.onnx")

    assert api.inspect("stack.onnx").blocks is None
    assert main(["inspect", "chain.onnx", "--blocks"]) == 0
    assert "no block can be left out" in capsys.readouterr().out


# -- prune --drop-block -----------------------------------------------------------------------------

HELD = 2 * 8 * 12 + 16  # parameters of one block with its norm


def pruned(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """The JSON that `prune stack.onnx -o small.onnx` prints."""
    capsys.readouterr()
    assert main(["prune", "stack.onnx", "-o", "small.onnx", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The line that it prints when it refuses; nothing is written."""
    capsys.readouterr()
    assert main(["prune", "stack.onnx", "-o", "small.onnx", *words]) == 2
    assert not Path("small.onnx").exists()
    (line,) = capsys.readouterr().err.splitlines()
    return line


def verified(capsys: pytest.CaptureFixture[str]) -> Any:
    """The JSON that `verify` prints of it."""
    words = ["verify", "small.onnx", "--plan", "small.plan.json", "--original", "stack.onnx"]
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_only_blocks_go_without_a_budget(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a block and the one that it lies in the outer one goes."""
    del home
    report = pruned(capsys, "--drop-block", "n1", "--drop-block", "s[12]")

    assert report["blocks"] == ["n1", "s2"]
    params = report["figures"]["params"]
    assert params["before"] - params["after"] == HELD + 2 * 8 * 12
    assert report["figures"]["macs"]["after"] < report["figures"]["macs"]["before"]
    assert {w["units"]["after"] - w["units"]["before"] for w in report["widths"]} == {0}
    assert report["proof"]["moved"] > 1e-3
    left = onnx.load("small.onnx").graph
    assert sorted(n.op_type for n in left.node) == sorted(
        ["MatMul"] * 4 + ["Relu", "Add"] + ["LayerNormalization"] * 2
    )
    assert read_plan("small.plan.json").selection["budget"] == "--drop-block n1, --drop-block s[12]"
    assert verified(capsys)["proof"]["moved"] == pytest.approx(report["proof"]["moved"], rel=1e-6)


def test_blocks_then_channels(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A share is one of the whole model; the plan says both, is verified, and can be applied again."""
    del home
    report = pruned(capsys, "--drop-block", "n0", "--params", "0.5", "--round-to", "1")

    params = report["figures"]["params"]
    assert report["blocks"] == ["n0"]
    assert 0.4 < params["after"] / params["before"] <= 0.5
    assert params["before"] - params["after"] > HELD
    plan = read_plan("small.plan.json")
    assert [b.name for b in plan.blocks] == ["n0"]
    assert any(tensor.shape_after != tensor.shape for tensor in plan.tensors.values())
    assert plan.proof is not None
    assert verified(capsys)["proof"]["gap"] == report["proof"]["gap"]

    again = ["prune", "stack.onnx", "-o", "again.onnx", "--plan", "small.plan.json", "--json"]
    assert main(again) == 0
    assert json.loads(capsys.readouterr().out)["blocks"] == ["n0"]
    assert Path("again.onnx").read_bytes() == Path("small.onnx").read_bytes()
    assert read_plan("again.plan.json").blocks == plan.blocks


def test_a_plan_with_blocks_fits_a_newer_checkpoint(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pruned(capsys, "--drop-block", "n0", "--params", "0.5", "--round-to", "1")
    perturb(home / "stack.onnx", home / "newer.onnx")
    assert main(["prune", "newer.onnx", "-o", "new.onnx", "--plan", "small.plan.json", "-q"]) == 0

    old, new = (onnx.load(name).graph for name in ("small.onnx", "new.onnx"))
    assert [n.op_type for n in old.node] == [n.op_type for n in new.node]
    assert {w.name: tuple(w.dims) for w in old.initializer} == {
        w.name: tuple(w.dims) for w in new.initializer
    }


def test_repair_fits_to_the_original_with_its_blocks(home: Path) -> None:
    """Blocks alone, and channels after blocks: calibrated to what the whole model computes."""
    del home
    data = {"u": np.random.default_rng(0).standard_normal((96, 5, 8)).astype(np.float32)}
    for ratio in (None, 0.3):
        errors = {}
        for repair in ("none", None):
            report = api.prune(
                "stack.onnx", "small.onnx",
                data=data, drop_block="n1", ratio=ratio, round_to=1, repair=repair,
            )  # fmt: skip
            assert report.blocks == ("n1",)
            told = api.evaluate("small.onnx", data, reference="stack.onnx").error
            errors[report.repair] = told or 0.0
            assert report.evaluation is not None
            assert report.evaluation.error == pytest.approx(errors[report.repair], rel=0.5)
        assert errors["sequential"] < 0.9 * errors["none"]


def test_a_budget_that_the_blocks_meet(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del home
    report = pruned(capsys, "--drop-block", "n*", "--params", "0.9")

    assert report["blocks"] == ["n0", "n1", "n2"]
    assert "--params 0.9 is met without the blocks: no channels go" in report["notes"]
    params = report["figures"]["params"]
    assert (params["before"], params["after"]) == (3 * HELD + 8 * 11, 8 * 11)


REFUSED = {
    "an unknown name": (
        ["--drop-block", "s11"],
        "--drop-block 's11': no block has that name; near it are 's1', 's2', 's0'; "
        "`inspect --blocks` lists all 6",
    ),
    "a repair of nothing": (
        ["--drop-block", "n1", "--repair", "least_squares", "--data", "random"],
        "--repair least-squares refits what reads removed channels, and none go",
    ),
    "a plan and a block": (
        ["--drop-block", "n1", "--plan", "x.json"],
        "--plan decides what goes: leave out --drop-block",
    ),
    "a budget out of reach": (["--drop-block", "n1", "--params", "0.001"], "is out of reach"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del home
    words, message = REFUSED[what]
    assert message in refused(capsys, *words)


def test_a_model_without_blocks(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(NETWORKS["chain"].model(), home / "stack.onnx")
    assert "the model has no block that can be left out whole" in refused(
        capsys, "--drop-block", "*"
    )


def test_the_table_names_blocks(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del home
    assert main(["prune", "stack.onnx", "--drop-block", "n1"]) == 0

    shown = capsys.readouterr().out
    assert "left out whole: n1" in shown
    assert "proved" in shown
