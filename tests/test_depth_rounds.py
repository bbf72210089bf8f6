"""Blocks that are left out, round by round: planted ones, the plan, the report, refusals."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune import api
from onnxprune.cli import main
from onnxprune.core.contracts import Progress, Samples, silent
from onnxprune.core.depth import DEPTH, DepthEvidence, DepthRanking, DepthScore, Guard, Level
from onnxprune.core.errors import OnnxPruneError
from onnxprune.measure.clock import Clock
from onnxprune.pipeline.deepen import choose
from onnxprune.pipeline.request import PruneRequest
from onnxprune.plan import read_plan
from tests.handmade import examined, handmade
from tests.planted import PLANTED, WIDTH, planted


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> Path:
    """A folder with `planted.onnx` and 768 samples of it."""
    monkeypatch.chdir(tmp_path)
    onnx.save(planted(rng), "planted.onnx")
    np.savez("data.npz", u=rng.standard_normal((768, WIDTH)).astype(np.float32))
    return tmp_path


@pytest.mark.parametrize(
    "words", [{"depth": "mpruner:tau=99,threshold=0"}, {"depth": "cka", "blocks": 2}]
)
def test_planted_blocks_go_and_nothing_moves(home: Path, words: dict[str, Any]) -> None:
    """Exactly they; without the repair the rotation costs most answers."""
    del home
    report = api.prune("planted.onnx", "small.onnx", data="data.npz", ridge=1e-9, **words)

    assert report.blocks == PLANTED
    assert report.repair == "sequential"
    told = api.evaluate("small.onnx", "data.npz", reference="planted.onnx")
    assert told.agreement == 1.0
    assert (told.error or 1.0) < 1e-4  # normal equations in float32
    api.prune("planted.onnx", "cut.onnx", data="data.npz", repair="none", drop_block=PLANTED)
    assert (api.evaluate("cut.onnx", "data.npz", reference="planted.onnx").agreement or 1) < 0.7


def test_a_cosine_does_not_see_a_rotation(home: Path) -> None:
    del home
    report = api.prune("planted.onnx", "small.onnx", data="data.npz", depth="cosine", blocks=2)
    assert "s1" in report.blocks
    scores = read_plan("small.plan.json").depth
    assert scores is not None
    assert scores.rounds[0].scores["s3"] > 0.5


@dataclasses.dataclass(frozen=True)
class Scripted:
    """Takes out what its script says for each granularity."""

    script: tuple[tuple[str, ...], ...]
    threshold: float = 0.0
    level: Level = "block"
    needs: frozenset[str] = frozenset()
    needs_samples: bool = True

    @property
    def guard(self) -> Guard:
        return Guard(self.threshold, 9)

    def finer(self) -> DepthScore | None:
        return dataclasses.replace(self, script=self.script[1:]) if len(self.script) > 1 else None

    def rank(self, evidence: DepthEvidence, progress: Progress = silent) -> DepthRanking:
        del progress
        goes = np.array([block.name in self.script[0] for block in evidence.blocks])
        return DepthRanking(np.arange(len(goes), dtype=np.float64), goes)


def rounds(home: Path, monkeypatch: pytest.MonkeyPatch, script: Sequence[Sequence[str]]) -> Any:
    monkeypatch.setitem(DEPTH._entries, "scripted", Scripted(tuple(map(tuple, script))))
    data = np.load(home / "data.npz")["u"]
    samples = Samples(len(data), lambda a, b: {"u": data[a:b]})
    request = PruneRequest(home / "planted.onnx", data=samples, depth="scripted", ridge=1e-9)
    analysis = examined(onnx.load(home / "planted.onnx"))
    return choose(request, analysis, samples, None, Clock(silent))


def test_what_loses_too_much_is_undone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round too many: it is taken back, the next takes less; then nothing is left to take."""
    mask, planned = rounds(home, monkeypatch, [["s0", "s1"], ["s1"], ["s0", "s2"]])

    assert [block.name for block in mask.blocks] == ["s1"]
    # s1 is gone when the second script says it again: the end
    assert [(r.blocks, r.accepted) for r in planned.rounds] == [
        (("s0", "s1"), False), (("s1",), True), ((), True),
    ]  # fmt: skip
    assert (planned.metric, planned.judges) == ("agreement", 192)
    drops = [r.drop for r in planned.rounds]
    assert drops[0] > 0.02
    assert drops[1:] == [0.0, None]


def test_rounds_add_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later round sees the model without what went before, and what it says is joined to that."""
    both = [["s1", "s3"]]
    monkeypatch.setattr(Scripted, "rank", _one_by_one)
    mask, planned = rounds(home, monkeypatch, both)

    assert [block.name for block in mask.blocks] == ["s1", "s3"]
    assert [r.blocks for r in planned.rounds] == [("s1",), ("s3",), ()]
    assert [len(r.scores) for r in planned.rounds] == [4, 3, 2]


def _one_by_one(
    self: Scripted, evidence: DepthEvidence, progress: Progress = silent
) -> DepthRanking:
    del progress
    names = [block.name for block in evidence.blocks]
    first = next((n for n in self.script[0] if n in names), None)
    return DepthRanking(np.zeros(len(names)), np.array([n == first for n in names]))


# -- the command ------------------------------------------------------------------------------------


def test_the_plan_says_how(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prune", "planted.onnx", "-o", "small.onnx", "--data", "data.npz"]
    assert (
        main([*words, "--depth", "mpruner:tau=99,threshold=0.3", "--ridge", "1e-9", "--json"]) == 0
    )
    report = json.loads(capsys.readouterr().out)
    plan = read_plan(home / "small.plan.json")

    assert report["blocks"] == list(PLANTED) == [b.name for b in plan.blocks]
    assert report["asked"] == "--depth mpruner:tau=99,threshold=0.3"
    assert plan.depth is not None
    assert (plan.depth.score, plan.depth.metric, plan.depth.judges) == ("mpruner", "agreement", 128)
    first, second = plan.depth.rounds
    assert first.settings["tau"] == 99
    assert first.points == ("x", "s0", "s1", "s2", "s3")
    assert first.clusters == ((0,), (1, 2), (3, 4))
    assert first.cuts == (2, 4)
    similarity, spread = np.array(first.similarity), np.array(first.spread)
    assert similarity.shape == spread.shape == (5, 5)
    np.testing.assert_allclose(np.diagonal(similarity), 1, atol=1e-6)
    assert similarity[3, 4] == pytest.approx(1, abs=1e-5)
    assert similarity[0, 2] < 0.9
    assert 0 < spread[0, 2] < 0.1
    assert (first.blocks, first.drop, first.accepted) == (PLANTED, 0.0, True)
    assert (second.blocks, second.points) == ((), ("x", "s0", "s2"))

    again = ["prune", "planted.onnx", "-o", "again.onnx", "--plan", "small.plan.json"]
    assert main([*again, "--data", "data.npz", "--ridge", "1e-9", "-q"]) == 0
    assert (home / "again.onnx").read_bytes() == (home / "small.onnx").read_bytes()


def test_the_report_draws_it(home: Path) -> None:
    """Five points as a map, its clusters outlined, a mark where each block went; every round told."""
    api.prune(
        "planted.onnx",
        "small.onnx",
        data="data.npz",
        depth="mpruner:tau=99,threshold=0",
        ridge=1e-9,
    )
    page = api.report("small.plan.json", output=home / "page.html").read_text()

    assert "similarity of 5 points, 2 clusters, 2 blocks left out" in page
    assert "M1 1h2v2h-2zM3 3h2v2h-2z" in page
    assert page.count("m0 -.6l-.6 .6") == 2
    assert "<td>tau 99, k 1, threshold 0, cka debiased, level layer</td>" in page
    assert "s1, s3" in page


def test_the_table_tells_rounds(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del home
    words = ["prune", "planted.onnx", "-o", "small.onnx", "--data", "data.npz", "--ridge", "1e-9"]
    assert main([*words, "--depth", "mpruner:tau=99,threshold=0"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "left out whole: s1, s3" in shown
    assert "round 1, k = 1: 2 blocks out, 0.0 % of agreement lost on 128 samples: kept" in shown


def test_blocks_then_channels(home: Path) -> None:
    """Shares are of the whole model; channels are chosen from what the score leaves."""
    del home
    report = api.prune(
        "planted.onnx",
        "small.onnx",
        data="data.npz",
        depth="cka",
        blocks="50%",
        macs=0.5,
        round_to=1,
    )
    macs = report.figures["macs"]

    assert report.blocks == PLANTED
    assert 0.4 < macs.after / macs.before <= 0.5
    assert report.asked == "--depth cka, --blocks 50%, --macs 0.5"


def test_a_number_of_blocks_without_data(home: Path) -> None:
    del home
    report = api.prune("planted.onnx", "small.onnx", depth="random", blocks=1, seed=3)
    assert (len(report.blocks), report.repair) == (1, "none")


REFUSED = {
    "no such score": (["--depth", "cosin", "--blocks", "1"], "unknown depth score 'cosin'"),
    "how many": (["--depth", "cosine"], "--depth cosine ranks blocks: say how many go with --blocks"),
    "too many words": (["--depth", "mpruner", "--blocks", "1"], "says by itself what goes"),
    "no score": (["--blocks", "3"], "--blocks is of use with --depth only"),
    "names, too": (
        ["--depth", "cosine", "--blocks", "1", "--drop-block", "s1"], "give one of them",
    ),
    "a plan, too": (["--depth", "mpruner", "--plan", "x.json"], "--plan decides what goes"),
    "half a block": (["--depth", "cka", "--blocks", "1.5"], "--blocks 1.5: expected how many go"),
    "more than there are": (["--depth", "cka", "--blocks", "9"], "--blocks 9 is out of reach: 4 blocks"),
    "a setting": (["--depth", "mpruner:tau=120"], "tau='120'"),
    "nothing alike": (["--depth", "mpruner:tau=100"], "leaves out nothing: no end of a block is"),
    "few to judge": (["--depth", "mpruner", "--samples", "40"], "give at least 64 samples"),
    "few rows": (["--depth", "cka", "--blocks", "1", "--samples", "9"], "at least 16 rows"),
    "a repair of channels": (
        ["--depth", "cka", "--blocks", "1", "--repair", "mean"],
        "--repair mean refits what reads removed channels, and none go: choose sequential",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, message = REFUSED[what]
    assert main(["prune", "planted.onnx", "-o", "small.onnx", "--data", "data.npz", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (home / "small.onnx").exists()


def test_scores_that_look_need_data(home: Path) -> None:
    del home
    for name in ("mpruner", "cosine", "output"):
        with pytest.raises(OnnxPruneError, match=f"depth score '{name}' needs sample inputs"):
            api.prune("planted.onnx", depth=name, blocks=None if name == "mpruner" else 1)


def test_a_model_without_blocks(home: Path) -> None:
    model = handmade("(float[N,4] x) => (float[N,3] y) { y = MatMul(x, w) }", w=(4, 3))
    onnx.save(model, home / "flat.onnx")
    with pytest.raises(OnnxPruneError, match="the model has no block that can be left out whole"):
        api.prune("flat.onnx", depth="random", blocks=1)


def test_scores_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "depth", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert set(listed) == set(DEPTH) == {"mpruner", "cka", "cosine", "output", "branch", "random"}
