"""Which blocks a depth score leaves out: clusters, levels, rounds; and what the command says of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxprune import api
from onnxprune.cli import main
from onnxprune.core.analysis import Analysis
from onnxprune.core.contracts import Progress, Samples, silent
from onnxprune.core.depth import DEPTH, DepthEvidence, DepthRanking, DepthScore, Guard, Level
from onnxprune.core.errors import OnnxPruneError
from onnxprune.discover import discover
from onnxprune.measure.clock import Clock
from onnxprune.passes.depth._clusters import clusters, thinned
from onnxprune.pipeline.collect import collect
from onnxprune.pipeline.deepen import choose
from onnxprune.pipeline.request import PruneRequest
from onnxprune.plan import read_plan
from onnxprune.structure.blocks import find_blocks
from onnxprune.structure.streams import competing, streams
from tests.handmade import examined, handmade
from tests.streams import FUSED, long_skip, stack

discover()
SCORES = list(DEPTH)


# -- clusters ---------------------------------------------------------------------------------------


def ladder(*steps: float) -> Any:
    """Points on a line whose similarity is 1 less the way between them."""
    places = np.cumsum([0.0, *steps])
    return 1 - np.abs(places[:, None] - places)


def test_clusters_are_against_the_first() -> None:
    """0.9 from one to the next is not 0.9 to the first: drift ends a cluster."""
    assert clusters(ladder(0.06, 0.06, 0.06), 0.9) == [(0, 1), (2, 3)]
    assert clusters(ladder(0.01, 0.01, 0.5, 0.01), 0.9) == [(0, 1, 2), (3, 4)]
    assert clusters(ladder(0.2, 0.2), 0.9) == [(0,), (1,), (2,)]
    assert clusters(ladder(0.5, 0.25), 0.5) == [(0, 1), (2,)]  # as like as tau is like


def test_what_cannot_be_told_is_unlike() -> None:
    matrix = np.ones((3, 3))
    matrix[0, 1] = matrix[1, 0] = np.nan
    assert clusters(matrix, 0.5) == [(0,), (1, 2)]


@pytest.mark.parametrize(("k", "gone"), [(1, (4, 5, 6, 7, 8)), (2, (4, 6, 8)), (3, (4, 7))])
def test_granularity(k: int, gone: tuple[int, ...]) -> None:
    """Positions 1, 1 + k, 1 + 2k, ... go."""
    assert thinned((3, 4, 5, 6, 7, 8), k) == gone
    assert thinned((3,), k) == ()


# -- which blocks compete, and where they end -------------------------------------------------------


def names(model: ModelProto, level: Level) -> list[str]:
    return [b.name for b in competing(find_blocks(examined(model)), level)]


def halves(depth: int) -> ModelProto:
    """Pre-norm layers of a mixing half and a feed-forward half of other widths."""
    lines, now = [], "x"
    weights: dict[str, Any] = {}
    for i in range(depth):
        for half, width in (("m", 16), ("f", 12)):
            name = f"{half}{i}"
            lines += [
                f"{name}n = LayerNormalization({now}, {name}s, {name}b)",
                f"{name}u = MatMul({name}n, {name}v)", f"{name}r = Relu({name}u)",
                f"{name}c = MatMul({name}r, {name}w)", f"{name} = Add({now}, {name}c)",
            ]  # fmt: skip
            shapes = {"s": (8,), "b": (8,), "v": (8, width), "w": (width, 8)}
            weights |= {name + part: shape for part, shape in shapes.items()}
            now = name
    return handmade(
        f"""(float[N,T,8] u, int64[N,T] attention_mask) => (float[N,T,3] y) {{
            x = MatMul(u, w_in)
            {chr(10).join(lines)}
            y = MatMul({now}, w_out)
        }}""",
        w_in=(8, 8), w_out=(8, 3), **weights,
    )  # fmt: skip


def test_levels() -> None:
    found = competing(find_blocks(examined(halves(3))), "block")
    assert [b.y for b in found] == ["m0", "f0", "m1", "f1", "m2", "f2"]
    found = competing(find_blocks(examined(halves(3))), "layer")
    assert [(b.x, b.y) for b in found] == [("x", "f0"), ("f0", "f1"), ("f1", "f2")]
    assert names(stack(FUSED, post=True, depth=3), "block") == [
        "n0",
        "n1",
        "n2",
    ]  # with their norms
    assert names(long_skip(), "block") == ["c", "e"]  # and not what they lie in


def test_points_of_tokens() -> None:
    analysis = examined(halves(2))
    blocks = competing(find_blocks(analysis), "block")
    found = streams(analysis, blocks)

    assert [p.tensor for p in found.points] == ["x", "m0", "f0", "m1", "f1"]
    assert {(p.tokens, p.mask, p.stream) for p in found.points} == {(True, "attention_mask", 1)}
    assert found.ends == ((0, 1), (1, 2), (2, 3), (3, 4))


def test_a_decoder_has_tokens_of_its_own() -> None:
    """Blocks lead from point to point within each; the mask is the encoder's."""
    model = handmade(
        """(float[N,T,8] x, float[N,T] attention_mask, float[N,S,8] z) => (float[N,S,8] y, float[N,T,8] e) {
            a = MatMul(x, w1)
            b = Relu(a)
            c = MatMul(b, w2)
            s = Add(x, c)
            k = Transpose<perm=[0,2,1]>(s)
            q = MatMul(z, w3)
            p = MatMul(q, k)
            m = Unsqueeze(attention_mask, one)
            r = Mul(p, m)
            o = MatMul(r, s)
            y = Add(z, o)
            e = Relu(s)
        }""",
        w1=(8, 12), w2=(12, 8), w3=(8, 8), one=np.array([1]),
    )  # fmt: skip
    analysis = examined(model)
    found = streams(analysis, competing(find_blocks(analysis), "block"))

    assert {p.tensor: p.mask for p in found.points} == {
        "x": "attention_mask", "s": "attention_mask", "z": None, "y": None,
    }  # fmt: skip
    numbers = {p.tensor: p.stream for p in found.points}
    assert numbers["x"] == numbers["s"] != numbers["z"] == numbers["y"]


def residual(lines: str, head: str, **weights: Any) -> ModelProto:
    """Convolutions with an activation behind every sum, as ResNets have them."""
    return handmade(
        f"""(float[N,3,8,8] u) => (float[N,4] y) {{
            c0 = Conv<pads=[1,1,1,1]>(u, w0)
            x = Relu(c0)
            {lines}
            g = GlobalAveragePool({head})
            f = Flatten(g)
            y = MatMul(f, w9)
        }}""",
        w0=(6, 3, 3, 3), w9=(6, 4), **weights,
    )  # fmt: skip


def test_points_lie_behind_the_activation() -> None:
    """Where the next block begins; the last one's, too; before and after a block went."""
    lines = "\n".join(
        f"""a{i} = Conv<pads=[1,1,1,1]>({x}, v{i})
        s{i} = Add({x}, a{i})
        r{i} = Relu(s{i})"""
        for i, x in enumerate(["x", "r0"])
    )
    model = residual(lines, "r1", v0=(6, 6, 3, 3), v1=(6, 6, 3, 3))
    analysis = examined(model)
    found = streams(analysis, find_blocks(analysis))

    assert [p.tensor for p in found.points] == ["x", "r0", "r1"]
    assert found.ends == ((0, 1), (1, 2))
    assert not any(p.tokens for p in found.points)


# -- planted blocks ---------------------------------------------------------------------------------

WIDTH, CLASSES = 10, 5
PLANTED = ("s1", "s3")  # nothing of note, and a rotation behind which only the head reads


def planted(rng: np.random.Generator) -> ModelProto:
    """Strong blocks 0 and 2, and two that CKA sees through; data in, scores of classes out."""

    def dense(*shape: int, scale: float = 1.0) -> Any:
        return (scale * rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    turn = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]
    weights: dict[str, Any] = {"w0": dense(WIDTH, WIDTH), "w9": dense(WIDTH, CLASSES)}
    for i in (0, 1, 2):
        weights |= {f"a{i}": dense(WIDTH, 24, scale=3.0), f"b{i}": dense(24, WIDTH, scale=3.0)}
    weights["b1"] *= np.float32(1e-5)
    weights["q"] = (turn - np.eye(WIDTH)).astype(np.float32)
    blocks = "\n".join(
        f"""h{i} = MatMul({x}, a{i})
        r{i} = Relu(h{i})
        c{i} = MatMul(r{i}, b{i})
        s{i} = Add({x}, c{i})"""
        for i, x in enumerate(["x", "s0", "s1"])
    )
    return handmade(
        f"""(float[N,{WIDTH}] u) => (float[N,{CLASSES}] y) {{
            x = MatMul(u, w0)
            {blocks}
            c3 = MatMul(s2, q)
            s3 = Add(s2, c3)
            y = MatMul(s3, w9)
        }}""",
        **weights,
    )  # fmt: skip


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


# -- every score ------------------------------------------------------------------------------------


def evidence(analysis: Analysis, samples: Samples, score: DepthScore) -> DepthEvidence:
    blocks = competing(find_blocks(analysis), score.level)
    found = streams(analysis, blocks)
    statistics = collect(analysis, samples, score.needs, points=found.points, pairs=found.ends)
    points = tuple(p.tensor for p in found.points)
    return DepthEvidence(analysis, blocks, points, found.ends, statistics, samples)


@pytest.mark.parametrize("name", SCORES)
def test_scores(name: str, rng: np.random.Generator) -> None:
    """One finite number a block, the same again; a dataclass, whose settings a user can reach."""
    score, analysis = DEPTH[name], examined(planted(rng))
    x = rng.standard_normal((96, WIDTH)).astype(np.float32)
    given = evidence(analysis, Samples(96, lambda a, b: {"u": x[a:b]}), score)
    first, second = score.rank(given), score.rank(given)

    assert dataclasses.is_dataclass(type(score))
    assert first.scores.shape == (len(given.blocks),)
    assert np.isfinite(first.scores).all()
    np.testing.assert_array_equal(first.scores, second.scores)
    assert (first.goes is None) == (score.guard is None)
    if name != "random":  # what does next to nothing goes first, or with it what CKA is blind to
        assert first.scores[1] < 1e-3 < min(first.scores[0], first.scores[2])


def test_random_is_by_seed(rng: np.random.Generator) -> None:
    analysis = examined(planted(rng))
    x = rng.standard_normal((32, WIDTH)).astype(np.float32)
    given = evidence(analysis, Samples(32, lambda a, b: {"u": x[a:b]}), DEPTH["random"])
    draws = [DEPTH["random"].rank(dataclasses.replace(given, seed=s)).scores for s in (0, 0, 1)]

    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).all()


def test_output_error_is_that_of_a_run(rng: np.random.Generator) -> None:
    analysis = examined(planted(rng))
    x = rng.standard_normal((64, WIDTH)).astype(np.float32)
    score = DEPTH["output"]
    found = score.rank(evidence(analysis, Samples(64, lambda a, b: {"u": x[a:b]}), score)).scores

    assert np.argmin(found) == 1
    w = {n: np.asarray(v.array, np.float64) for n, v in analysis.graph.weights.items()}
    stream = x @ w["w0"]
    for i in range(3):
        stream = stream + np.maximum(stream @ w[f"a{i}"], 0) @ w[f"b{i}"]
    whole, without = stream @ (w["q"] + np.eye(WIDTH)) @ w["w9"], stream @ w["w9"]
    expected = ((whole - without) ** 2).sum() / (whole**2).sum()
    assert found[3] == pytest.approx(expected, rel=1e-4)


# -- rounds -----------------------------------------------------------------------------------------


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
    assert set(listed) == set(SCORES) == {"mpruner", "cka", "cosine", "output", "branch", "random"}
