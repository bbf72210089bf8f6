"""What every registered criterion promises, over every way in which channels are coupled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxprune.core.analysis import Analysis, Group, Ints
from onnxprune.core.contracts import CRITERIA, Criterion, Evidence, Floats, Samples
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.graph import Array, Graph
from onnxprune.discover import discover
from onnxprune.pipeline.collect import collect
from onnxprune.structure.dependency import analyse
from tests import networks

discover()

NETWORKS = {**networks.NETWORKS, "normed": networks.NORMED}

FILES = ("cifar10_tinycnn.onnx", "cifar10_sri_resnet_a.onnx")
REFUSING = {"bn-scale"}  # networks without BatchNormalization in every group
BY_POSITION = {"random"}  # draws by unit number: what the channels hold does not matter

each_criterion = pytest.mark.parametrize("name", list(CRITERIA))
each_network = pytest.mark.parametrize("network", list(NETWORKS))


def evidence(graph: Graph, criterion: Criterion) -> Evidence:
    """Analyse a graph and collect what the criterion needs, on fixed samples."""
    analysis = analyse(graph)
    if not criterion.needs:
        return Evidence(analysis, None)
    rng = np.random.default_rng(1)
    arrays: dict[str, Array] = {}
    for value in graph.inputs:
        batch, *shape = (dim.dim_value for dim in value.type.tensor_type.shape.dim)
        arrays[value.name] = rng.standard_normal((48, *shape)).astype(np.float32)
    samples = Samples(48, lambda a, b: {n: v[a:b] for n, v in arrays.items()}, batch=batch or None)
    try:
        return Evidence(analysis, collect(analysis, samples, criterion.needs, rows=16))
    except OnnxPruneError as error:
        skip_without_torch(error)
        raise


@cache
def small(network: str, name: str) -> Evidence:
    return evidence(NETWORKS[network].graph(), CRITERIA[name])


def scores(name: str, facts: Evidence) -> list[Floats]:
    try:
        return [ranking.scores for ranking in CRITERIA[name].rank(facts)]
    except OnnxPruneError as error:
        if name in REFUSING and "BatchNormalization" in str(error):
            pytest.skip(str(error))
        skip_without_torch(error)
        raise


def skip_without_torch(error: OnnxPruneError) -> None:
    """Skip what only PyTorch can score, where it is not installed."""
    if find_spec("torch") is None and "need" in str(error) and "PyTorch" in str(error):
        pytest.skip(str(error))


def edited(facts: Evidence, group: Group, edit: Callable[[Array, Ints], Array]) -> Graph:
    """Rewrite what a group owns; `edit` gets a weight with the axis first, and (U, k) positions."""
    graph = facts.analysis.graph.copy()
    for member in group.members:
        weight = graph.weights[member.tensor]
        array = np.moveaxis(weight.array, member.axis, 0).copy()
        changed = np.moveaxis(edit(array, member.index), 0, member.axis)
        graph.weights[member.tensor] = weight.replace(np.ascontiguousarray(changed))
    return graph


@each_network
@each_criterion
def test_one_finite_score_per_unit(name: str, network: str) -> None:
    facts = small(network, name)

    for group, found in zip(facts.analysis.groups, scores(name, facts), strict=True):
        assert (len(group),) == found.shape
        assert np.float64 == found.dtype
        assert np.isfinite(found).all()


@each_network
@each_criterion
def test_channels_in_another_order_score_the_same(name: str, network: str) -> None:
    """The network does not change when channels trade places, so neither may their scores."""
    if name in BY_POSITION:
        pytest.skip("draws by unit number")
    facts = small(network, name)
    for number, group in enumerate(facts.analysis.groups):
        order = np.random.default_rng(number).permutation(len(group))

        def moved(array: Array, index: Ints, order: Ints = order) -> Array:
            source = array.copy()
            array[index] = source[index[order]]
            return array

        other = evidence(edited(facts, group, moved), CRITERIA[name])
        expected = scores(name, facts)[number][order]

        found = scores(name, other)[number]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


@each_network
@each_criterion
def test_a_silent_channel_ranks_lowest(name: str, network: str) -> None:
    """A unit with zero weights, biases and scales sends nothing."""
    if not CRITERIA[name].zero_is_least:
        pytest.skip("does not promise it")
    facts = small(network, name)
    for number, group in enumerate(facts.analysis.groups):
        unit = len(group) // 2

        def silenced(array: Array, index: Ints, unit: int = unit) -> Array:
            array[index[unit]] = 0
            return array

        other = evidence(edited(facts, group, silenced), CRITERIA[name])

        found = scores(name, other)[number]
        assert found[unit] == found.min()


@each_network
@each_criterion
def test_equal_seeds_give_equal_scores_and_nothing_is_changed(name: str, network: str) -> None:
    facts = small(network, name)
    before = _contents(facts)
    first = scores(name, facts)

    again = scores(name, Evidence(facts.analysis, facts.statistics, seed=facts.seed))

    for a, b in zip(first, again, strict=True):
        assert a.tobytes() == b.tobytes()
    assert before == _contents(facts)


def _contents(facts: Evidence) -> list[bytes]:
    weights = [w.array.tobytes() for w in facts.analysis.graph.weights.values()]
    return weights + [a.tobytes() for a in _arrays(facts)]


def _arrays(facts: Evidence) -> Iterator[NDArray[np.float64]]:
    if facts.statistics is not None:
        for moments in facts.statistics.moments.values():
            yield from (moments.mean, moments.square, moments.fluctuation)
        for second in facts.statistics.second.values():
            yield from (second.mean, second.covariance)


@each_criterion
def test_scores_of_different_groups_are_not_the_same_draw(name: str) -> None:
    facts = small("residual", name)
    trunk, inner = scores(name, facts)

    assert not np.array_equal(trunk[: len(inner)], inner[: len(trunk)])


@each_criterion
def test_without_samples_what_needs_them_says_so(name: str) -> None:
    facts = Evidence(analyse(NETWORKS["chain"].graph()), None)
    if CRITERIA[name].needs:
        with pytest.raises(OnnxPruneError, match="sample inputs"):
            scores(name, facts)
    else:
        assert len(facts.analysis.groups) == len(scores(name, facts))


@pytest.mark.parametrize("file", FILES)
@each_criterion
def test_trained_files(name: str, file: str, data_dir: Path) -> None:
    graph = Graph.from_model(onnx.load(data_dir / "onnx" / file))

    facts = evidence(graph, CRITERIA[name])

    assert facts.analysis.groups
    for group, found in zip(facts.analysis.groups, scores(name, facts), strict=True):
        assert (len(group),) == found.shape
        assert np.isfinite(found).all()
        assert np.ptp(found) > 0


# -- known values ---------------------------------------------------------------------------------


def analysis_of_two_writers() -> Analysis:
    """A residual trunk whose two writers have very different scales."""
    graph = NETWORKS["residual"].graph()
    graph.weights["w3"] = graph.weights["w3"].replace(100 * graph.weights["w3"].array)
    return analyse(graph)


@pytest.mark.parametrize(("name", "order"), [("l1", 1), ("l2", 2)])
def test_members_count_equally_whatever_their_scale(name: str, order: int) -> None:
    analysis = analysis_of_two_writers()
    norms = [
        np.linalg.norm(
            analysis.graph.weights[w].array.reshape(16, -1).astype(np.float64), ord=order, axis=1
        )
        for w in ("w1", "w3")
    ]
    expected = np.mean([n / n.mean() for n in norms], axis=0)

    found = scores(name, Evidence(analysis, None))[0]

    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_bn_scale_is_the_absolute_scale() -> None:
    analysis = analyse(NETWORKS["normed"].graph())
    weights = analysis.graph.weights
    weights["n_scale"] = weights["n_scale"].replace(-weights["n_scale"].array)

    found = CRITERIA["bn-scale"].rank(Evidence(analysis, None))

    for name, ranking in zip(("n_scale", "m_scale"), found, strict=True):
        expected = np.abs(weights[name].array.astype(np.float64))
        np.testing.assert_array_equal(ranking.scores, expected)


def test_bn_scale_refuses_what_has_no_batch_normalisation() -> None:
    facts = Evidence(analyse(NETWORKS["chain"].graph()), None)
    with pytest.raises(OnnxPruneError, match="found none in 'w2': export without") as caught:
        CRITERIA["bn-scale"].rank(facts)
    assert "\n" not in str(caught.value)


def test_fpgm_is_the_summed_distance() -> None:
    analysis = analyse(NETWORKS["chain"].graph())
    rows = analysis.graph.weights["w1"].array.reshape(16, -1).astype(np.float64)
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=2).sum(axis=1)

    found = scores("fpgm", Evidence(analysis, None))[0]

    np.testing.assert_allclose(found, distances / distances.mean(), rtol=1e-9)


@pytest.mark.parametrize("network", ["chain", "grouped", "flatten", "dense"])
def test_wanda_and_flap_weigh_what_the_reader_receives(network: str) -> None:
    """Checked against the dense weight of the first reader, written out channel by channel."""
    facts = small(network, "wanda")
    group = facts.analysis.groups[0]
    reader = group.readers[0]
    linear, moments = reader.linear, facts.required().moments
    seen = moments[linear.x, linear.x_axis]
    weight = np.moveaxis(facts.weight(linear.weight), (linear.weight_out, linear.weight_in), (0, 1))
    inner, share = weight.shape[1], len(weight) // linear.groups
    wanda, flap = [], []
    for positions in reader.index:
        parts = [
            (weight[c // inner * share : (c // inner + 1) * share, c % inner], c) for c in positions
        ]
        wanda.append(sum(float(np.abs(w).sum() * seen.norm[c]) for w, c in parts))
        flap.append(sum(float((w**2).sum() * seen.fluctuation[c]) for w, c in parts))
    expected = np.array(wanda) / np.mean(wanda), (np.array(flap) - np.mean(flap)) / np.std(flap)

    np.testing.assert_allclose(scores("wanda", facts)[0], expected[0], rtol=1e-9)
    np.testing.assert_allclose(scores("flap", facts)[0], expected[1], rtol=1e-9, atol=1e-9)


def test_consumers_can_be_asked_to_count() -> None:
    analysis = analyse(NETWORKS["chain"].graph())
    facts = Evidence(analysis, None)
    both = dataclasses.replace(CRITERIA["l2"], consumers=True)  # type: ignore[type-var]

    found = both.rank(facts)[0].scores

    written = np.linalg.norm(facts.weight("w1").reshape(16, -1), axis=1)
    read = np.linalg.norm(np.moveaxis(facts.weight("w2"), 1, 0).reshape(16, -1), axis=1)
    np.testing.assert_allclose(
        found, (written / written.mean() + read / read.mean()) / 2, rtol=1e-12
    )
