"""Scores that compare between groups: what readers and residual streams make of a channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxprune.core.configured import configured
from onnxprune.core.contracts import CRITERIA, Evidence, Samples
from onnxprune.core.graph import Graph
from onnxprune.discover import discover
from onnxprune.passes.criteria._kernels import log_kernels, target_of
from onnxprune.pipeline.collect import collect
from onnxprune.structure.dependency import analyse
from tests.handmade import handmade

discover()
Array = np.ndarray[Any, np.dtype[np.float64]]
NEEDS = {"second", "maps", "moments", "streams", "contributions", "summaries"}

# a stem, a branch beside it, and two classes
RESIDUAL = """(float[N, 3, 6, 6] x) => (float[N, 4] y) {
    s = Conv<pads = [1, 1, 1, 1]>(x, ws)
    t = Relu(s)
    a = Conv<pads = [1, 1, 1, 1]>(t, wa)
    b = Relu(a)
    c = Conv<pads = [1, 1, 1, 1]>(b, wc)
    u = Add(t, c)
    p = GlobalAveragePool(u)
    f = Flatten(p)
    y = Gemm(f, wy)
}"""


def residual(**changed: Array) -> Graph:
    shapes: dict[str, Any] = {
        "ws": (6, 3, 3, 3),
        "wa": (8, 6, 3, 3),
        "wc": (6, 8, 3, 3),
        "wy": (6, 4),
    }
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape) / 5 for name, shape in shapes.items()}
    weights |= changed
    return Graph.from_model(
        handmade(RESIDUAL, **{n: w.astype(np.float32) for n, w in weights.items()})
    )


def evidence_of(graph: Graph, count: int = 48) -> Evidence:
    x = np.random.default_rng(1).standard_normal((count, 3, 6, 6)).astype(np.float32)
    analysis = analyse(graph)
    samples = Samples(count, lambda a, b: {"x": x[a:b]})
    return Evidence(analysis, collect(analysis, samples, NEEDS))


def weight(graph: Graph, name: str) -> Array:
    return np.asarray(graph.weights[name].array, np.float64)


def scores_of(graph: Graph, criterion: str) -> dict[str, Array]:
    evidence = evidence_of(graph)
    found = configured(CRITERIA, criterion)[1].rank(evidence)
    groups = evidence.analysis.groups
    return {g.name: np.asarray(r.scores) for g, r in zip(groups, found, strict=True)}


@pytest.mark.parametrize("criterion", ["cmi", "thinet"])
def test_a_channel_scaled_up_and_read_down_scores_the_same(criterion: str) -> None:
    """ReLU lets a factor pass: the network is the same, so its channels are."""
    graph = residual()
    wa, wc = weight(graph, "wa").copy(), weight(graph, "wc").copy()
    wa[2] *= 16
    wc[:, 2] /= 16

    before = scores_of(graph, criterion)
    after = scores_of(residual(wa=wa, wc=wc), criterion)

    np.testing.assert_allclose(after["wa"], before["wa"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("criterion", ["cmi", "mipp:collapse=patches", "reconstruction"])
def test_a_branch_that_hardly_moves_its_stream_tells_little(criterion: str) -> None:
    graph = residual()

    before = scores_of(graph, criterion)["wa"].sum()
    after = scores_of(residual(wc=weight(graph, "wc") / 100), criterion)["wa"].sum()

    assert after < 1e-3 * before


def test_loud_channels_that_are_hardly_read_come_last() -> None:
    """The noise trap: their maps vary most, but nothing that follows depends on it."""
    graph = residual()
    wa, wc = weight(graph, "wa").copy(), weight(graph, "wc").copy()
    wa[:3] *= 50
    wc[:, :3] /= 5000

    found = scores_of(residual(wa=wa, wc=wc), "cmi")["wa"]

    assert found[:3].max() < 0.01 * found[3:].min()


def test_the_information_lost_adds_up() -> None:
    """In nats over all units of a group: what the whole group tells, or more where gains rise."""
    evidence = evidence_of(residual())
    for ranking in configured(CRITERIA, "cmi:conditioning=layer")[1].rank(evidence):
        assert ranking.scores.sum() == pytest.approx(ranking.curves["joint"][-1], rel=0.01)


def test_sure_predictions_are_labels() -> None:
    """Logits or probabilities; what the model is sure of has the kernel of classes."""
    graph = residual()
    evidence = evidence_of(graph)
    maps = evidence.required().maps
    assert maps is not None
    classes = maps.outputs.argmax(axis=1)
    sure = np.eye(4)[classes].astype(np.float32)

    for outputs in (sure, 1000 * sure):
        maps.outputs[:] = outputs
        found = np.exp(target_of(evidence, maps, "auto", "readers").log)
        rows, columns = np.triu_indices(len(classes), 1)
        np.testing.assert_allclose(found, classes[rows] == classes[columns], atol=1e-7)


def test_kernels_of_all_units_are_as_wide_as_the_median() -> None:
    """Without a sum behind the reader, half of all pairs are nearer than exp(-1/2)."""
    evidence = evidence_of(residual())
    maps = evidence.required().maps
    assert maps is not None
    group = next(g for g in evidence.analysis.groups if g.name == "ws")
    reader = [r for r in group.readers if r.linear.weight == "wy"]
    assert reader
    together = log_kernels(group, evidence, maps, "readers").sum(axis=0)
    assert np.isfinite(together).all()
    assert np.median(together) == pytest.approx(-0.5, abs=0.05)
