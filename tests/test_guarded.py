"""`--max-drop`: bounds that cover, searches that hold the limit, and go on after a kill."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from scipy.stats import multinomial, norm

from onnxprune import OnnxPruneError, prune
from onnxprune.cli import main
from onnxprune.measure.drop import Limit, bound, read_share
from onnxprune.measure.evaluate import Evaluation
from onnxprune.show.report import PruneReport

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module", name="guarded")
def _guarded(home: Path) -> PruneReport:
    return prune(home / "digits.onnx", home / "g.onnx", data=home / "train.npz", max_drop="1%")


def test_bound_of_a_share_is_wilsons() -> None:
    n, z = 400, float(norm.ppf(0.95))
    for lost in (0, 1, 7, 100):
        p = lost / n
        middle = p + z * z / (2 * n) + z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        assert bound(lost, 0, n, 0.95) == pytest.approx(middle / (1 + z * z / n), abs=1e-9)


@pytest.mark.parametrize(("lose", "gain"), [(0.02, 0.0), (0.05, 0.03), (0.1, 0.02), (0.03, 0.05)])
def test_bound_covers(lose: float, gain: float) -> None:
    """Exact coverage over all outcomes of 60 samples; the score test may fall short by some per cent."""
    n, covered = 60, 0.0
    for lost in range(25):
        for gained in range(20):
            chance = multinomial.pmf(
                (lost, gained, n - lost - gained), n, (lose, gain, 1 - lose - gain)
            )
            if chance > 1e-9:
                covered += float(chance) * (bound(lost, gained, n, 0.9) >= lose - gain)
    assert covered > 0.86


def test_bound_at_even_confidence_is_the_drop() -> None:
    assert bound(5, 2, 100, 0.5) == 0.03
    assert bound(5, 2, 100, 0.95) > 0.03 > -0.03 > -bound(5, 2, 100, 0.95)


def test_error_bound_has_the_spread_of_the_samples() -> None:
    limit = Limit(0.3 + 1e-12, "error", float(norm.cdf(1.0)), 1e-5)
    drop = limit.judge(Evaluation(9, errors={"y": 0.2}, spreads={"y": 0.05}))
    assert (drop.value, drop.holds) == (0.2, True)
    assert drop.bound == pytest.approx(0.3, abs=1e-12)
    worse = limit.judge(Evaluation(9, errors={"y": 0.2}, spreads={"y": 0.0501}))
    assert not worse.holds


@pytest.mark.parametrize("text", ["1", "100%", "-1%", "x", "nan", ""])
def test_refuses_what_is_no_share(text: str) -> None:
    with pytest.raises(OnnxPruneError, match="--max-drop"):
        read_share(text)


def test_finds_the_largest_that_holds(guarded: PruneReport, home: Path) -> None:
    search = guarded.search
    assert search is not None
    assert (search.metric, search.samples, search.grid) == ("agreement", 635, 127)
    assert len(search.trials) <= 7
    best = search.trials[search.chosen]
    assert best.macs == guarded.figures["macs"].after
    assert guarded.figures["macs"].after < 0.3 * guarded.figures["macs"].before
    for trial in search.trials:
        assert trial.drop.holds == (trial.drop.bound <= 0.01)
        assert trial.drop.holds == (trial.macs >= best.macs)
    nearest = max(t.macs for t in search.trials if not t.drop.holds)
    assert best.macs - nearest < 0.05 * guarded.figures["macs"].before
    assert guarded.evaluation is not None
    assert 1 - (guarded.evaluation.agreement or 0) == pytest.approx(best.drop.value, abs=1e-12)
    plan = json.loads((home / "g.plan.json").read_text())
    written = plan["selection"]["search"]
    assert len(written["trials"]) == len(search.trials)
    assert written["trials"][written["chosen"]]["macs"] == best.macs


def test_looser_limits_remove_more(guarded: PruneReport, home: Path) -> None:
    loose = prune(
        home / "digits.onnx", home / "l.onnx", data=home / "train.npz", max_drop=0.05,
        by="params", trials=4,
    )  # fmt: skip
    assert loose.search is not None
    assert len(loose.search.trials) <= 4
    assert loose.figures["params"].after < guarded.figures["params"].after
    assert loose.search.trials[loose.search.chosen].drop.bound > 0.01


def test_judges_accuracy_on_samples_of_their_own(home: Path) -> None:
    report = prune(
        home / "digits.onnx", home / "a.onnx", data=home / "train.npz",
        judge=home / "test.npz", labels="labels", max_drop="3%", trials=3,
    )  # fmt: skip
    assert report.search is not None
    assert report.evaluation is not None
    assert (report.search.metric, report.search.samples) == ("accuracy", 450)
    right = report.evaluation.right
    assert right is not None
    drop = report.search.trials[report.search.chosen].drop
    assert drop.value == pytest.approx((right.lost - right.gained) / 450, abs=1e-12)
    level = 1 - 0.05 / 3
    assert drop.bound == pytest.approx(bound(right.lost, right.gained, 450, level), abs=1e-12)


def test_output_error_as_the_metric(home: Path) -> None:
    report = prune(
        home / "digits.onnx", home / "e.onnx", data=home / "train.npz", metric="error",
        max_drop="10%", trials=4,
    )  # fmt: skip
    assert report.evaluation is not None
    assert report.search is not None
    drop = report.search.trials[report.search.chosen].drop
    assert report.evaluation.error == pytest.approx(drop.value, rel=1e-4)
    assert 0 < drop.value < drop.bound <= 0.1


def test_none_removes_only_what_nobody_hears(home: Path, tmp_path: Path) -> None:
    """Eight channels that write zeros go, and nothing else."""
    model = onnx.load(home / "digits.onnx")
    dead = np.arange(3, 48, 3)[:8]
    for weight in model.graph.initializer:
        if weight.name in ("block1.bn1.weight", "block1.bn1.bias"):
            values = numpy_helper.to_array(weight).copy()
            values[dead] = 0
            weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "dead.onnx")
    report = prune(tmp_path / "dead.onnx", data=home / "train.npz", max_drop="0%")
    changed = {w.name: w.units.before - w.units.after for w in report.widths}
    assert {k: v for k, v in changed.items() if v} == {"block1.conv1.weight": 8}
    assert report.evaluation is not None
    assert report.evaluation.error is not None
    assert report.evaluation.error < 2.5e-5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--max-drop 0%", "no cut that was tried holds it"),
        ("--max-drop 1% --macs 0.5", "found --macs and --max-drop"),
        ("--max-drop 0.01% --trials 3", "samples to judge by cannot show it"),
        ("--max-drop 1% --confidence 1", "--confidence"),
        ("--max-drop 1% --trials 0", "--trials 0"),
        ("--max-drop 1% --trials 99", "--trials 99"),
        ("--max-drop 1% --metric accuracy", "needs --labels"),
        ("--max-drop 1% --metric speed", "--metric 'speed'"),
        ("--max-drop 1% --by time", "--by 'time'"),
        ("--max-drop one", "--max-drop one"),
        ("--macs 0.5 --trials 3", "--trials is of use with --max-drop only"),
        ("--max-drop 1% --plan p.json", "--plan decides"),
    ],
)
def test_refuses(
    options: str, said: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = home / "digits.onnx", home / "train.npz"
    output = tmp_path / "out.onnx"
    found = main(["prune", str(model), "-o", str(output), "--data", str(data), *options.split()])
    lines = capsys.readouterr().err.splitlines()
    assert (found, len(lines)) == (2, 1)
    assert said in lines[0]
    assert not any(tmp_path.iterdir())


def test_needs_data(home: Path) -> None:
    with pytest.raises(OnnxPruneError, match="needs samples to judge by"):
        prune(home / "digits.onnx", max_drop="1%")


_KILLED = """
import os, signal, sys
from onnxprune import prune
seen = []
def progress(what, done, total):
    seen.append(what)
    if sys.argv[1] == "kill" and what.startswith("trial 4 of 7: repair"):
        os.kill(os.getpid(), signal.SIGKILL)
prune("digits.onnx", "out.onnx", data="train.npz", max_drop="1%", work="work", progress=progress)
print(sorted({w.split(":")[0] for w in seen if w.endswith(": repair")}))
"""


@pytest.mark.usefixtures("guarded")
def test_goes_on_after_a_kill(home: Path, tmp_path: Path) -> None:
    for name in ("digits.onnx", "train.npz"):
        shutil.copy(home / name, tmp_path)
    command = [sys.executable, "-c", _KILLED]
    killed = subprocess.run([*command, "kill"], cwd=tmp_path, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out.onnx").exists()
    again = subprocess.run([*command, ""], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "trial 4 of 7" in again.stdout
    assert "trial 3 of 7" not in again.stdout.split("trial 4")[0]
    assert (tmp_path / "out.onnx").read_bytes() == (home / "g.onnx").read_bytes()
    assert (tmp_path / "out.plan.json").read_bytes() == (home / "g.plan.json").read_bytes()
