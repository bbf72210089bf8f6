"""MIPP from end to end: features, networks without training, sampled outputs, the paper's settings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import onnxprune as op
from onnxprune.core.configured import configured
from onnxprune.core.contracts import CRITERIA, Evidence, Ranking
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.graph import Graph
from onnxprune.core.interface import read_interface
from onnxprune.core.samples import Samples
from onnxprune.core.stats import Statistics
from onnxprune.core.stream import Probes, stream
from onnxprune.passes.criteria._terc import schedule
from onnxprune.pipeline.collect import collect
from onnxprune.plan import read_plan
from onnxprune.structure.dependency import analyse
from tests.handmade import handmade
from tests.networks import NETWORKS

MLP = "(float[N,12] x) => (float[N,4] y) { h = Gemm(x, w1, b1)  a = Relu(h)  y = Gemm(a, w2, b2) }"
SHAPES: dict[str, Any] = {"w1": (12, 24), "b1": (24,), "w2": (24, 4), "b2": (4,)}
SMALL = "estimator=mlp,hidden=32,first=200,again=20,ordering=10"


def samples_of(graph: Graph, count: int, rng: np.random.Generator) -> Samples:
    shape = [dim.dim_value for dim in graph.inputs[0].type.tensor_type.shape.dim]
    x = rng.standard_normal((count, *shape[1:])).astype(np.float32)
    return Samples(count, lambda a, b: {graph.inputs[0].name: x[a:b]})


def ranked(graph: Graph, settings: str, samples: Samples) -> list[Ranking]:
    criterion, analysis = configured(CRITERIA, f"mipp:{settings}")[1], analyse(graph)
    return criterion.rank(Evidence(analysis, collect(analysis, samples, criterion.needs)))


def kept(rankings: list[Ranking]) -> list[int]:
    return [int(np.asarray(ranking.keep).sum()) for ranking in rankings]


# -- sampled outputs ----------------------------------------------------------------------------
@pytest.mark.parametrize("name", list(NETWORKS))
def test_contributions_add_up_to_outputs(name: str, rng: np.random.Generator) -> None:
    """Each row's sum is, but for the bias, the value of that output somewhere in that sample."""
    analysis = analyse(NETWORKS[name].graph())
    samples = samples_of(analysis.graph, 24, rng)
    outputs = Probes(tuple(linear.y for linear in analysis.linears()))
    step = next(iter(stream(analysis.graph, [outputs], samples, batch=24)))
    order = np.argsort(step.keys, kind="stable")

    found = _contributions(collect(analysis, samples, {"contributions"}, batch=7))

    for linear in analysis.linears():
        y = np.moveaxis(step.values[linear.y], linear.y_axis, 1)[order]
        bias = 0.0 if linear.bias is None else analysis.graph.weights[linear.bias].array
        y = y.reshape(*y.shape[:2], -1) - np.broadcast_to(bias, y.shape[1])[:, None]
        rows = found[linear.node]
        there = y[np.arange(24)[:, None], rows.outputs]  # (N, R, positions)
        gaps = np.abs(there - rows.added.sum(axis=2)[:, :, None]).min(axis=2)
        assert gaps.max() < 1e-5  # float32 sums in another order
        assert len(np.unique(rows.outputs)) == y.shape[1]


def _contributions(statistics: Statistics) -> Any:
    assert statistics.contributions is not None
    return statistics.contributions


def test_neither_batches_nor_order_change_contributions(rng: np.random.Generator) -> None:
    analysis = analyse(NETWORKS["grouped"].graph())
    samples = samples_of(analysis.graph, 20, rng)
    turned = Samples(20, lambda a, b: {"x": samples.read(0, 20)["x"][::-1][a:b]})

    first = _contributions(collect(analysis, samples, {"contributions"}, batch=20))
    again = _contributions(collect(analysis, turned, {"contributions"}, batch=3))

    for node, rows in first.items():
        assert (rows.outputs == again[node].outputs).all()
        np.testing.assert_allclose(rows.added, again[node].added, atol=1e-6)


def duplicated() -> Graph:
    """The chain, channels 3 and 7 of its first layer made copies of 0 and 1, in weights and norm."""
    graph = NETWORKS["chain"].graph()
    for name in ("w1", "b1", "n_scale", "n_bias", "n_mean", "n_var"):
        array = graph.weights[name].array.copy()
        array[[3, 7]] = array[[0, 1]]
        graph.weights[name] = graph.weights[name].replace(array)
    return graph


@pytest.mark.parametrize("collapse", ["l1", "l2", "mean", "std"])
def test_of_copies_one_goes(collapse: str, rng: np.random.Generator) -> None:
    graph = duplicated()
    found = ranked(graph, f"collapse={collapse},tolerance=0", samples_of(graph, 400, rng))

    keep = np.asarray(found[0].keep)
    assert keep[[0, 3]].sum() <= 1
    assert keep[[1, 7]].sum() <= 1


def test_sampled_outputs_see_what_norms_do_not(rng: np.random.Generator) -> None:
    """A channel that the next layer reads with weights of zero adds nothing, however it varies."""
    graph = NETWORKS["chain"].graph()
    weight = graph.weights["w2"].array.copy()
    weight[:, 5] = 0
    graph.weights["w2"] = graph.weights["w2"].replace(weight)
    found = ranked(graph, "collapse=patches,tolerance=0", samples_of(graph, 200, rng))

    assert not np.asarray(found[0].keep)[5]
    assert found[0].scores[5] == found[0].scores.min()


# -- input features -----------------------------------------------------------------------------
def planted() -> ModelProto:
    """A layer that reads features 0 to 6 only."""
    model = handmade(MLP, **SHAPES)
    for tensor in model.graph.initializer:
        if tensor.name == "w1":
            weight = numpy_helper.to_array(tensor).copy()
            weight[7:] = 0
            tensor.CopyFrom(numpy_helper.from_array(weight, "w1"))
    return model


@pytest.mark.parametrize("estimator", ["estimator=ridge", SMALL])
def test_exactly_the_useless_features_go(
    estimator: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Two of those that are read are copies of two others: one of each pair goes, too."""
    onnx.save(planted(), tmp_path / "m.onnx")
    x = rng.standard_normal((600, 12)).astype(np.float32)
    x[:, 5:7] = x[:, [0, 1]]

    op.prune(
        tmp_path / "m.onnx", tmp_path / "p.onnx", data={"x": x}, unlock="input:x", round_to=1,
        criterion=f"mipp:{estimator}", keep="w2", samples=500,
    )  # fmt: skip

    (part,) = read_interface(Graph.from_model(onnx.load(tmp_path / "p.onnx"))).parts
    features = set(part.kept)
    assert len(features) == 5
    assert {2, 3, 4} <= features
    assert len(features & {0, 5}) == len(features & {1, 6}) == 1


# -- networks without training ------------------------------------------------------------------
@pytest.mark.parametrize("settings", ["tolerance=0.05", "collapse=patches,tolerance=0.05"])
@pytest.mark.parametrize("kind", ["lenet5", "mlp"])
def test_networks_with_random_weights(
    kind: str, settings: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    """What goes is proved as always; nothing in MIPP asks for a trained network."""
    pytest.importorskip("torch")
    x = rng.standard_normal((300, 1, 28, 28)).astype(np.float32)
    name = "images" if kind == "lenet5" else "x"
    if kind == "mlp":
        onnx.save(handmade(MLP, **SHAPES), tmp_path / "m.onnx")
        x = x.reshape(300, -1)[:, :12]
    else:
        untrained_lenet(tmp_path / "m.onnx")

    report = op.prune(
        tmp_path / "m.onnx", tmp_path / "p.onnx", data={name: x}, criterion=f"mipp:{settings}",
        repair="none", round_to=1, samples=256,
    )  # fmt: skip

    assert report.proof is not None
    before, after = report.figures["units"].before, report.figures["units"].after
    assert 0 < after < before
    settled = read_plan(tmp_path / "p.plan.json").criterion.settings
    assert settled["tolerance"] == 0.05
    assert settled["estimator"] == "ridge"


def untrained_lenet(path: Path) -> None:
    import torch

    from onnxprune.models.export import export
    from onnxprune.models.lenet import LeNet5

    torch.manual_seed(0)
    export(LeNet5(), [torch.zeros(2, 1, 28, 28)], path, exporter="torchscript")


# -- settings -----------------------------------------------------------------------------------
def test_the_schedule_sweeps_from_little_to_nearly_all(rng: np.random.Generator) -> None:
    """As in the paper: five estimates, nothing allowed; the highest confidence leaves a node or two."""
    graph = NETWORKS["dense"].graph()
    samples = samples_of(graph, 256, rng)
    counts = [
        sum(kept(ranked(graph, f"estimates=5,tolerance=0,nulls=0,confidence={x}", samples)))
        for x in (0.5, 1 - 0.5**10, 1 - 0.5**20)
    ]
    assert counts[0] > 45 > counts[1] > counts[2]
    assert counts[2] <= 10


def test_a_budget_may_choose_the_confidence(rng: np.random.Generator) -> None:
    """The score of a node says how much of the schedule it survives; losses decide among equals."""
    graph = NETWORKS["dense"].graph()
    samples, paper = samples_of(graph, 256, rng), "estimates=5,tolerance=0,nulls=0"
    levels = [ranked(graph, f"{paper},confidence={x}", samples) for x in schedule()]

    found = ranked(graph, f"{paper},under=confidence", samples)

    for number, ranking in enumerate(found):
        survived = np.sum([np.asarray(level[number].keep) for level in levels], axis=0)
        order = np.lexsort((levels[-1][number].scores, survived))
        assert (np.argsort(ranking.scores, kind="stable") == order).all()
        assert len(np.unique(survived)) > 5
        assert (np.diff(ranking.scores[order])[np.diff(survived[order]) > 0] > 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("estimates=1", "mipp:estimates=1: expected 2 or more"),
        ("confidence=1", "mipp:confidence=1.0: expected above 0 and below 1"),
        ("networks=1", "mipp:networks=1: expected 2 or more"),
    ],
)
def test_settings_without_sense_are_refused(settings: str, message: str) -> None:
    with pytest.raises(OnnxPruneError, match=message):
        configured(CRITERIA, f"mipp:{settings}")


def test_without_pytorch_the_networks_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "onnxprune.torch.predictors", raising=False)
    graph = NETWORKS["dense"].graph()

    with pytest.raises(
        OnnxPruneError, match=r'estimator=mlp needs PyTorch: pip install "onnxprune'
    ):
        ranked(graph, SMALL, samples_of(graph, 64, rng))
