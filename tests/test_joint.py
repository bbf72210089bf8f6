"""Width and depth under one budget: costs without blocks, one mask for both, and what the search finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune import api
from onnxprune.cli import main
from onnxprune.core.contracts import SURGERIES
from onnxprune.core.cost import CostModel
from onnxprune.core.graph import Graph
from onnxprune.core.rules import OP_RULES
from onnxprune.core.shapes import instantiate
from onnxprune.discover import discover
from onnxprune.pipeline.depth import carried, carried_scores
from onnxprune.pipeline.joint import least_at
from onnxprune.plan import read_plan
from onnxprune.structure.blocks import find_blocks
from onnxprune.structure.dependency import analyse
from onnxprune.structure.streams import competing
from tests.networks import bottlenecks
from tests.planted import PLANTED, WIDTH, planted
from tests.streams import FUSED, stack
from tests.test_latency import with_clock

discover()
NO_UNITS = np.empty(0, np.int64)
MODELS = {
    "convolutions": bottlenecks((2, 2, 1), (16, 24, 32), 32).model(),
    "tokens": stack(FUSED, post=True, depth=3),
}


def costed(graph: Any) -> CostModel:
    analysis = analyse(graph)
    instance = instantiate(analysis.graph, OP_RULES.shape_functions, sizes=(1, 5, 8))
    assert instance is not None
    return CostModel(analysis, instance)


@pytest.mark.parametrize("name", MODELS)
def test_without_blocks_costs_and_masks_are_those_of_the_shallow_model(
    name: str, rng: np.random.Generator
) -> None:
    """Figures at any widths, and the same channels go; sizes are foreseen from above."""
    whole = costed(Graph.from_model(MODELS[name]))
    entire = whole.analysis
    blocks = competing(find_blocks(entire), "block")
    assert len(blocks) >= 2
    for gone in (blocks[:1], blocks[1:]):
        cost = whole.without(gone)
        shallow = costed(SURGERIES["blocks"](entire.mask(NO_UNITS, tuple(gone))))
        units = np.concatenate([g.units[: len(g) // 3] for g in entire.groups])
        mask = entire.mask(units)
        found = carried(mask, shallow.analysis)
        assert found.removed.any()
        left, lengths = cost.lengths(mask.removed), shallow.lengths(found.removed)
        for figure in ("macs", "params"):
            assert cost.figure(figure, left) == pytest.approx(shallow.figure(figure, lengths))
        assert cost.figure("macs", left) < whole.figure("macs", left)
        assert (
            shallow.figure("size", lengths)
            <= cost.figure("size", left)
            < whole.figure("size", left)
        )

        drawn = [rng.random(len(g)) for g in entire.groups]
        known = {g.name: s for g, s in zip(entire.groups, drawn, strict=True)}
        for group, scores in zip(
            shallow.analysis.groups, carried_scores(drawn, entire, shallow.analysis), strict=True
        ):
            if group.name in known:
                np.testing.assert_array_equal(scores, known[group.name])


@pytest.mark.parametrize("low", [0, 3])
@pytest.mark.parametrize("size", [0, 1, 5, 12, 25])
def test_the_least_of_what_falls_and_rises(low: int, size: int) -> None:
    for best in range(low, low + size + 1):
        calls: list[int] = []

        def error(n: int, best: int = best, calls: list[int] = calls) -> float:
            calls.append(n)
            return abs(n - best)

        found = least_at(error, low, low + size)
        assert abs(found - best) <= (size > 8)  # between two that were tried it may be missed
        assert len(calls) == len(set(calls)) <= 11
        assert low in calls


# -- whole prunes -----------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> Path:
    """A folder with `planted.onnx` and samples of it: 768 to calibrate on, 512 of their own to judge."""
    monkeypatch.chdir(tmp_path)
    onnx.save(planted(rng), "planted.onnx")
    for name, count in (("data", 768), ("judge", 512)):
        np.savez(f"{name}.npz", u=rng.standard_normal((count, WIDTH)).astype(np.float32))
    return tmp_path


FINE: dict[str, Any] = {"data": "data.npz", "ridge": 1e-9, "round_to": 1}


def test_blocks_that_carry_nothing_go_before_channels_that_do(home: Path) -> None:
    """Both planted blocks, since the repair makes up for them; and of all numbers tried they lose least."""
    report = api.prune("planted.onnx", "small.onnx", macs=0.66, depth="cka", **FINE)
    macs = report.figures["macs"]
    assert report.blocks == PLANTED
    assert report.asked == "--depth cka, --macs 0.66"
    assert macs.after <= 0.66 * macs.before
    assert report.proof is not None
    assert (api.evaluate("small.onnx", "data.npz", reference="planted.onnx").error or 1) < 1e-4

    depth = read_plan(home / "small.plan.json").depth
    assert depth is not None
    assert (depth.score, depth.metric, depth.judges) == ("cka", "error", 128)
    tried = {len(r.blocks): r.drop for r in depth.rounds}
    assert set(tried) == {0, 1, 2}
    assert [len(r.blocks) for r in depth.rounds if r.accepted] == [2]
    assert (tried[0] or 0) > 100 * (tried[2] or 1)


def test_blocks_and_channels_in_one_plan(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bare --depth; the plan does it all again, and the table says what was tried."""
    words = ["--data", "data.npz", "--ridge", "1e-9"]
    asked = [*words, "--round-to", "1", "--macs", "0.5", "--depth"]
    assert main(["prune", "planted.onnx", "-o", "small.onnx", *asked, "--judge", "judge.npz"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    plan = read_plan(home / "small.plan.json")
    assert "output error" in shown
    assert plan.depth is not None
    assert (plan.depth.score, plan.depth.judges) == ("cka", 256)
    assert plan.blocks
    assert any(group.removed for group in plan.groups)
    macs = plan.figures["macs"]
    assert 0.45 * macs.before < macs.after <= 0.5 * macs.before

    again = ["prune", "planted.onnx", "-o", "again.onnx", "--plan", "small.plan.json", *words]
    assert main([*again, "-q"]) == 0
    assert (home / "again.onnx").read_bytes() == (home / "small.onnx").read_bytes()


def test_other_criteria_and_figures(home: Path) -> None:
    """Scores need no common unit with blocks."""
    del home
    for criterion in ("l2", "random"):
        report = api.prune(
            "planted.onnx", "small.onnx", params=0.6, depth="cka", criterion=criterion, **FINE
        )
        assert set(PLANTED) <= set(report.blocks)
        assert report.figures["params"].after <= 0.6 * report.figures["params"].before


@pytest.mark.parametrize(
    "words", [{"depth": "cka"}, {"depth": "cka", "blocks": 2}, {"drop_block": PLANTED}]
)
def test_time_counts_blocks(
    words: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock that the fit is of agrees at once, and what blocks take is what the fit says."""
    calls = with_clock(monkeypatch, lambda ratio: ratio)
    report = api.prune("planted.onnx", "small.onnx", latency=0.55, **words, **FINE)
    assert set(PLANTED) <= set(report.blocks)
    times = json.loads((home / "small.plan.json").read_text())["selection"]["times"]
    (found,) = times["rounds"]
    assert found["predicted"] == pytest.approx(found["measured"], rel=1e-5)
    assert 0.3 < found["predicted"] <= 0.55
    given = report.depth is None or report.depth.metric is None  # then the fit is of what is left
    assert len(calls) == 2 + given


@pytest.mark.parametrize(
    ("words", "blocks"),
    [
        ({"depth": "cka"}, PLANTED),
        ({"depth": "cka", "blocks": 2}, PLANTED),
        ({"depth": "mpruner:tau=99,threshold=0.3"}, PLANTED),
    ],
)
def test_a_drop_is_held_with_blocks(
    words: dict[str, Any], blocks: tuple[str, ...], home: Path
) -> None:
    """Of agreement, on samples that neither blocks nor channels were chosen on."""
    del home
    report = api.prune(
        "planted.onnx", "small.onnx", max_drop="5%", trials=4, judge="judge.npz", **words, **FINE
    )
    assert set(blocks) <= set(report.blocks)
    assert report.search is not None
    assert report.search.samples == 512
    best = report.search.trials[report.search.chosen]
    assert best.drop.holds
    assert best.macs == report.figures["macs"].after < 0.657 * report.figures["macs"].before
    assert report.evaluation is not None
    assert 1 - (report.evaluation.agreement or 0) == pytest.approx(best.drop.value, abs=1e-12)


def test_samples_of_their_own_judge_mpruner(home: Path) -> None:
    report = api.prune(
        "planted.onnx", "small.onnx", depth="mpruner:tau=99", judge="judge.npz", **FINE
    )
    assert report.blocks == PLANTED
    assert report.depth is not None
    assert (report.depth.judges, report.held_out) == (256, 256)
    del home


REFUSED = {
    "no budget": (["--depth"], "say how many go with --blocks, or give a budget"),
    "units": (["--depth", "--ratio", "0.5", "--data", "data.npz"], "--ratio counts units of channels"),
    "no data": (["--depth", "random", "--macs", "0.5"], "compares models on samples: give --data"),
    "rounds": (
        ["--depth", "--macs", "0.5", "--data", "data.npz", "--rounds", "2"], "go by channels",
    ),
    "repair": (
        ["--depth", "--macs", "0.5", "--data", "data.npz", "--repair", "mean"],
        "--repair mean refits what reads removed channels",
    ),
    "out of reach": (
        ["--depth", "--macs", "0.01", "--data", "data.npz"], "--macs 0.01 is out of reach",
    ),
    "few samples": (
        ["--depth", "--macs", "0.5", "--data", "data.npz", "--samples", "40"], "or --judge",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, message = REFUSED[what]
    assert main(["prune", "planted.onnx", "-o", "small.onnx", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (home / "small.onnx").exists()


def test_a_sweep_ranks_blocks_once(home: Path) -> None:
    """Each point is the prune that its budget alone would be."""
    found = api.sweep("planted.onnx", home / "points", sweep="0.8,0.6", depth="cka", **FINE)
    alone = api.prune("planted.onnx", "alone.onnx", macs=0.6, depth="cka", **FINE)
    assert [point.macs for point in found.frontier.points][-1] == alone.figures["macs"].after
    point = home / "points" / found.frontier.points[-1].model.name
    assert point.read_bytes() == (home / "alone.onnx").read_bytes()
