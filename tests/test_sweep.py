"""`--sweep`: every point is the prune that its budget alone would be; dominated points; kills; refusals."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onnxprune import BudgetError, OnnxPruneError, prune, sweep
from onnxprune.cli import main
from onnxprune.measure.drop import bound
from onnxprune.pipeline.searching import read_sweep
from onnxprune.pipeline.sweep import SweepReport
from onnxprune.plan import (
    Frontier,
    ModelId,
    Point,
    PointTime,
    read_frontier,
    to_json,
    with_dominated,
)

OPTIONS = "--samples 64 --judge-samples 200 --criterion l1"


@pytest.fixture(scope="module", name="swept")
def _swept(home: Path) -> SweepReport:
    return sweep(
        home / "digits.onnx", home / "out", data=home / "train.npz", judge=home / "test.npz",
        labels="labels", samples=64, judge_samples=200, sweep="0.5,0.2", work=home / "work", bench=True,
    )  # fmt: skip


def test_points_are_plain_prunes_and_follow_from_their_plans(
    swept: SweepReport, home: Path, tmp_path: Path
) -> None:
    plain = prune(
        home / "digits.onnx", tmp_path / "a.onnx", data=home / "train.npz", labels="labels",
        judge=home / "test.npz", judge_samples=200, samples=64, macs=0.2,
    )  # fmt: skip
    again = prune(
        home / "digits.onnx", tmp_path / "b.onnx", data=home / "train.npz", judge=home / "test.npz",
        judge_samples=200, samples=64, plan=home / "out" / "digits.macs-0.2.plan.json",
    )  # fmt: skip
    point = swept.frontier.points[1]
    content = (home / "out" / "digits.macs-0.2.onnx").read_bytes()
    assert content == (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    plans = [home / "out" / "digits.macs-0.2.plan.json", tmp_path / "a.plan.json"]
    assert plans[0].read_bytes() == plans[1].read_bytes()
    assert plain.figures["macs"].after == again.figures["macs"].after == point.macs
    assert plain.evaluation is not None
    assert plain.evaluation.accuracy is not None
    assert plain.evaluation.accuracy.top1 == point.accuracy


def test_what_is_lost_and_how_sure(swept: SweepReport) -> None:
    found = swept.frontier
    assert (found.metric, found.samples, found.by) == ("accuracy", 200, "macs")
    assert [point.asked for point in found.points] == [0.5, 0.2]
    assert found.accuracy is not None
    for point in found.points:
        assert point.accuracy is not None
        assert point.lost == pytest.approx(found.accuracy - point.accuracy, abs=1e-12)
        lost = round(200 * max(point.lost, 0))
        assert point.bound >= bound(lost, 0, 200, 1 - 0.05 / 2) - 1e-12  # of both at once
        assert point.macs <= point.asked * found.macs
        assert point.gap is not None
        assert point.time is not None
        assert point.time.low <= point.time.ratio <= point.time.high
    assert to_json(read_frontier(swept.path)) == to_json(found) == swept.path.read_text()


def test_takes_up_what_was_made(swept: SweepReport, home: Path) -> None:
    """With a point more, and one whose file was lost."""
    (home / "out" / "digits.macs-0.2.onnx").unlink()
    more = sweep(
        home / "digits.onnx", home / "out", data=home / "train.npz", judge=home / "test.npz",
        labels="labels", samples=64, judge_samples=200, sweep=(0.2, 0.35, 0.5), work=home / "work",
    )  # fmt: skip
    assert more.remembered == 1
    assert [point.asked for point in more.frontier.points] == [0.5, 0.35, 0.2]
    before = {p.model.name: dataclasses.replace(p, time=None) for p in swept.frontier.points}
    for point in more.frontier.points:
        if point.model.name in before:
            then = before[point.model.name]
            assert point.bound > then.bound  # one of three
            assert point == dataclasses.replace(then, bound=point.bound, dominated=point.dominated)


_KILLED = """
import os, signal, sys
from onnxprune import sweep
seen = []
def progress(what, done, total):
    seen.append(what)
    if sys.argv[1] == "kill" and what.startswith("point 2 of 3: repair"):
        os.kill(os.getpid(), signal.SIGKILL)
sweep("digits.onnx", "out", data="train.npz", sweep=3, by="params", criterion="l1", samples=64, work="work",
      progress=progress)
print("point 1 of 3: repair" in seen, "point 3 of 3: repair" in seen)
"""


def test_goes_on_after_a_kill(home: Path, tmp_path: Path) -> None:
    for name in ("digits.onnx", "train.npz"):
        shutil.copy(home / name, tmp_path)
    command = [sys.executable, "-c", _KILLED]
    killed = subprocess.run([*command, "kill"], cwd=tmp_path, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(read_frontier(tmp_path / "out" / "frontier.json").points) == 1
    again = subprocess.run([*command, ""], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert again.stdout.split() == ["False", "True"]
    found = read_frontier(tmp_path / "out" / "frontier.json")
    shares = [point.asked for point in found.points]
    assert len(shares) == 3
    assert np.ptp(np.diff(shares)) < 2e-3  # evenly spread
    assert [round(share, 3) for share in shares] == shares
    assert found.metric == "agreement"


def _point(name: str, lost: float, macs: float, ratio: float | None = None) -> Point:
    time = None if ratio is None else PointTime(1.0, ratio, ratio, ratio)
    return Point(
        macs / 100, ModelId(f"{name}.onnx", "0"), f"{name}.plan.json", macs, macs, macs, lost, lost,
        None, 1 - lost, 0.0, 0.0, time,
    )  # fmt: skip


def test_dominated_points() -> None:
    points = [_point("a", 0.01, 80), _point("b", 0.0, 60), _point("c", 0.02, 40)]
    assert [p.dominated for p in with_dominated(points)] == ["b.onnx", None, None]
    alike = [_point("a", 0.01, 60), _point("b", 0.01, 60)]
    assert [p.dominated for p in with_dominated(alike)] == [None, None]
    faster = [_point("a", 0.01, 80, 2.0), _point("b", 0.0, 60, 1.5)]
    assert [p.dominated for p in with_dominated(faster)] == [None, None]


def test_reads_shares_and_counts() -> None:
    assert read_sweep("20%,0.8, 0.5") == (0.8, 0.5, 0.2)
    assert read_sweep("8") == read_sweep(8) == 8
    assert read_sweep((0.5, 0.5)) == (0.5,)
    for text in ("1", "0", "1.5", "0.5,2", "x", "", "101", "nan"):
        with pytest.raises(BudgetError, match="--sweep"):
            read_sweep(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--sweep 0.5,0.001", "out of reach, the least is 0.0"),
        ("--sweep 0.5 --macs 0.5", "found --macs and --sweep"),
        ("--sweep 0.5 --max-drop 1%", "found --max-drop and --sweep"),
        ("--sweep 0.5 --trials 3", "--trials is of use with --max-drop only"),
        ("--sweep 0.5 --dry-run", "--dry-run"),
        ("--sweep 0.5 --metric accuracy", "needs --labels"),
        ("--sweep 4 --by latency", "name the shares"),
        ("--sweep 0.5 --bench --unlock input:images", "--unlock input"),
        ("--macs 0.5 --bench", "--bench is of use with --sweep only"),
        ("--max-drop 1% --by latency", "--by 'latency' is of use with --sweep only"),
        ("--sweep 3 --keep *", "no group of channels may lose any"),
    ],
)
def test_refuses(
    options: str, said: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["prune", str(home / "digits.onnx"), "-o", str(tmp_path / "new")]
    command += ["--data", str(home / "train.npz"), *OPTIONS.split(), *options.split()]
    found, lines = main(command), capsys.readouterr().err.splitlines()
    assert (found, len(lines)) == (2, 1)
    assert said in lines[0]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_needs_data_and_budgets(home: Path) -> None:
    with pytest.raises(OnnxPruneError, match="--sweep needs samples"):
        sweep(home / "digits.onnx", sweep=3)
    with pytest.raises(OnnxPruneError, match="needs its budgets"):
        sweep(home / "digits.onnx", macs=0.5)
    with pytest.raises(OnnxPruneError, match="several files"):
        prune(home / "digits.onnx", data=home / "train.npz", sweep=3)


def test_json_and_table(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prune", str(home / "digits.onnx"), "-o", str(tmp_path), "--sweep", "0.3"]
    command += ["--data", str(home / "train.npz"), *OPTIONS.split()]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["frontier"]["points"][0]["model"]["name"] == "digits.macs-0.3.onnx"
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "macs 0.3" in text
    assert "on 200 samples that no step has seen" in text


def test_frontiers_are_read_with_suspicion(swept: SweepReport, tmp_path: Path) -> None:
    assert isinstance(swept.frontier, Frontier)
    bad = tmp_path / "bad.json"
    bad.write_text(swept.path.read_text().replace('"metric"', '"metrik"'))
    with pytest.raises(OnnxPruneError, match="not a frontier of onnxprune"):
        read_frontier(bad)
    with pytest.raises(OnnxPruneError, match="no frontier of onnxprune"):
        read_frontier(swept.path.with_name(swept.frontier.points[0].plan))
