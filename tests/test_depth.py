"""Which blocks a depth score leaves out: clusters, levels, rounds; and what the command says of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from onnxprune.core.analysis import Analysis
from onnxprune.core.contracts import Samples
from onnxprune.core.depth import DEPTH, DepthEvidence, DepthScore, Level
from onnxprune.discover import discover
from onnxprune.passes.depth._clusters import clusters, thinned
from onnxprune.pipeline.collect import collect
from onnxprune.structure.blocks import find_blocks
from onnxprune.structure.streams import competing, streams
from tests.handmade import examined, handmade
from tests.planted import WIDTH, planted
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
