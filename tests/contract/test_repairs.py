"""Every repair: structure kept, output runs, and what can be recovered exactly is."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.core.analysis import Mask
from onnxprune.core.contracts import CRITERIA, REPAIRS, Evidence, RepairTask, Samples
from onnxprune.core.graph import Array, Graph
from onnxprune.core.runtime import Session
from onnxprune.discover import discover
from onnxprune.passes.surgery.channels import remove_channels
from onnxprune.pipeline.collect import collect
from onnxprune.proof.prove import relative_gap
from onnxprune.structure.dependency import analyse
from tests.networks import NETWORKS, Network

discover()
RNG = np.random.default_rng(3)


def samples_of(array: Array, name: str) -> Samples:
    """Return an array as samples of one input."""
    return Samples(len(array), lambda start, stop: {name: array[start:stop]})


def task(graph: Graph, units: Array, *, ridge: float = 1e-9, count: int = 96) -> RepairTask:
    """Return a repair of `graph` without `units` of its first group."""
    analysis = analyse(graph)
    value = graph.inputs[0]
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim][1:]
    samples = samples_of(RNG.standard_normal((count, *shape)).astype(np.float32), value.name)
    statistics = collect(analysis, samples, {"moments", "second"}, rows=32)
    mask = analysis.mask(analysis.groups[0].units[units])
    return RepairTask(mask, remove_channels(mask), Evidence(analysis, statistics), samples, ridge)


def outputs(graph: Graph, samples: Samples) -> Array:
    """Run a graph over all samples; its only output."""
    (value,) = Session(graph.to_model()).run(samples.read(0, samples.count)).values()
    return np.asarray(value)


def lost(mask: Mask, graph: Graph, samples: Samples) -> float:
    """Return the relative gap between a repaired graph and the original."""
    return relative_gap(outputs(mask.analysis.graph, samples), outputs(graph, samples))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("repair", REPAIRS)
def test_structure_stays(repair: str, name: str) -> None:
    work = task(NETWORKS[name].graph(), np.array([0, 2]))

    repaired = REPAIRS[repair].apply(work)

    assert work.samples is not None
    before = {n: w.shape for n, w in work.pruned.weights.items()}
    after = {n: w.shape for n, w in repaired.weights.items() if n in before}
    assert before == after
    assert outputs(repaired, work.samples).shape == outputs(work.pruned, work.samples).shape


@pytest.mark.parametrize("name", NETWORKS)
def test_each_step_up_loses_less(name: str) -> None:
    work = task(NETWORKS[name].graph(), np.array([1, 3]), ridge=1e-6, count=256)
    assert work.samples is not None

    gaps = {r: mean_square(work.mask, REPAIRS[r].apply(work), work.samples) for r in REPAIRS}

    assert gaps["sequential"] <= gaps["none"] * 1.001
    assert gaps["least-squares"] <= gaps["none"] * 1.001


def mean_square(mask: Mask, graph: Graph, samples: Samples) -> float:
    """Return the mean squared difference to the original."""
    difference = outputs(mask.analysis.graph, samples) - outputs(graph, samples)
    return float((difference.astype(np.float64) ** 2).mean())


def duplicated(graph: Graph) -> Graph:
    """Make channel 1 of the first convolution a copy of channel 0 (weights and bias)."""
    for name in ("w1", "b1"):
        array = np.array(graph.weights[name].array)
        array[1] = array[0]
        graph.weights[name] = graph.weights[name].replace(array)
    for name in [n for n in graph.weights if n.startswith("n_")]:
        array = np.array(graph.weights[name].array)
        array[1 % len(array)] = array[0]
        graph.weights[name] = graph.weights[name].replace(array)
    return graph


@pytest.mark.parametrize("repair", ["least-squares", "sequential"])
def test_a_copied_channel_is_free(repair: str) -> None:
    work = task(duplicated(NETWORKS["chain"].graph()), np.array([1]))
    assert work.samples is not None

    repaired = REPAIRS[repair].apply(work)

    assert lost(work.mask, work.pruned, work.samples) > 1e-2
    assert lost(work.mask, repaired, work.samples) < 1e-3  # float32 normal equations, tiny ridge


def test_a_constant_channel_is_free_with_the_mean() -> None:
    graph = NETWORKS["chain"].graph()
    array = np.array(graph.weights["w1"].array)
    array[1] = 0  # the channel is relu(its bias through the normalisation), everywhere
    graph.weights["w1"] = graph.weights["w1"].replace(array)
    graph.weights["n_bias"] = graph.weights["n_bias"].replace(
        np.abs(graph.weights["n_bias"].array) + 1
    )
    work = task(graph, np.array([1]))
    assert work.samples is not None

    repaired = REPAIRS["mean"].apply(work)

    assert lost(work.mask, work.pruned, work.samples) > 1e-3
    # the reader pads nothing (no pads in "chain"): the mean is exact
    assert lost(work.mask, repaired, work.samples) < 1e-5


def test_reconstruction_scores_are_the_rise_after_refitting() -> None:
    """Sum of the rises of an elimination = penalised loss of the refit without these columns."""
    from onnxprune.passes.criteria.reconstruction import Elimination

    width, outs, taps = 6, 4, 3
    rows = RNG.standard_normal((200, width * taps))
    system = rows.T @ rows / 200 + 1e-3 * np.eye(width * taps)
    weight = RNG.standard_normal((1, width * taps, outs))
    columns = np.arange(width * taps).reshape(width, taps)
    reader = Elimination(
        weight.copy(), np.asarray(np.linalg.inv(system)[None], np.float64), columns, 1.0
    )

    total = 0.0
    for unit in (4, 0, 3):
        total += float(reader.rises(np.array([unit]))[0])
        reader.remove(np.array([unit]))
        left = np.setdiff1d(np.arange(width), [4, 0, 3][: [4, 0, 3].index(unit) + 1])
        reader.compact(left)

    kept = columns[[1, 2, 5]].ravel()
    cross = system @ weight[0]
    refitted = np.linalg.solve(system[np.ix_(kept, kept)], cross[kept])
    loss = np.trace(weight[0].T @ cross) - np.trace(cross[kept].T @ refitted)
    assert total == pytest.approx(loss, rel=1e-10)


def test_reconstruction_finds_the_copy_first() -> None:
    work = task(duplicated(NETWORKS["chain"].graph()), np.array([1]))

    scores = CRITERIA["reconstruction"].rank(work.evidence)[0].scores

    assert int(np.argmin(scores)) in {0, 1}
    assert np.sort(scores)[0] < 0.05 * np.sort(scores)[1]


def test_an_operator_whose_rows_go_learns_from_the_rows_that_stay() -> None:
    """Tokens are mixed per channel: without two channels, the mixing of the others is what it was."""
    mixer = Network(
        """net (float[N,6,5] x) => (float[N,7,3] y) {
            a = MatMul(x, w1)
            p = MatMul(a, inner)
            s = Add(a, p)
            b = Transpose<perm=[0,2,1]>(s)
            c = MatMul(b, w2)
            d = Relu(c)
            e = Transpose<perm=[0,2,1]>(d)
            y = MatMul(e, w3)
        }""",
        {"w1": (5, 8), "inner": (8, 8), "w2": (6, 7), "w3": (8, 3)},
    )
    graph, gone = mixer.graph(), np.array([0, 3])
    array = np.array(graph.weights["inner"].array)
    array[gone] = 0  # nothing else reads them
    graph.weights["inner"] = graph.weights["inner"].replace(array)
    work = task(graph, gone)

    repaired = REPAIRS["sequential"].apply(work)

    assert work.mask.gone_at("c", 1) is not None
    assert np.allclose(repaired.weights["w2"].array, work.pruned.weights["w2"].array, atol=1e-4)
