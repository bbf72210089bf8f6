"""What a removal does to the outputs, and the scores that are weighed by it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from onnxprune.core.contracts import REPAIRS, Evidence, RepairTask, Samples
from onnxprune.core.runtime import Session
from onnxprune.core.stats import SecondMoments
from onnxprune.discover import discover
from onnxprune.passes.criteria.reconstruction import Reconstruction
from onnxprune.passes.surgery.channels import remove_channels
from onnxprune.pipeline.collect import collect
from onnxprune.pipeline.damage import Damage
from onnxprune.structure.dependency import analyse
from tests.networks import Network

discover()
RNG = np.random.default_rng(11)


def network() -> Network:
    """Two hidden layers on one stream; the stream's last dimension is large and unread."""
    return Network(
        """net (float[N,6] x) => (float[N,3] y) {
            a = MatMul(x, w1)
            b = Relu(a)
            c = MatMul(b, w2)
            d = MatMul(x, w3)
            e = Relu(d)
            f = MatMul(e, w4)
            s = Add(c, f)
            r = Relu(s)
            y = MatMul(r, w5)
        }""",
        {"w1": (6, 16), "w2": (16, 8), "w3": (6, 16), "w4": (16, 8), "w5": (8, 3)},
    )


def evidence() -> tuple[Evidence, Samples]:
    """Return evidence of a network whose branch f only writes what nobody reads, and samples."""
    graph = network().graph()
    for name, place in (("w4", np.s_[:, :7]), ("w5", np.s_[7:])):
        array = np.array(graph.weights[name].array)
        array[place] = 0
        graph.weights[name] = graph.weights[name].replace(array)
    analysis = analyse(graph)
    rows = RNG.standard_normal((96, 6)).astype(np.float32)
    samples = Samples(len(rows), lambda start, stop: {"x": rows[start:stop]})
    statistics = collect(analysis, samples, {"moments", "second", "streams"}, rows=8)
    return Evidence(analysis, statistics), samples


def test_damage_is_the_error_of_the_refitted_model() -> None:
    found, samples = evidence()
    group = next(g for g in found.analysis.groups if g.readers[0].linear.weight == "w2")
    mask = found.analysis.mask(group.units[:5])

    damage = Damage(found, samples, "CPUExecutionProvider")(group.units[:5])

    task = RepairTask(mask, remove_channels(mask), found, None)
    feeds = samples.read(0, 64)
    (after,) = Session(REPAIRS["least-squares"].apply(task).to_model()).run(feeds).values()
    (before,) = Session(found.analysis.graph.to_model()).run(feeds).values()
    assert damage == pytest.approx(((after - before) ** 2).sum() / (before**2).sum(), rel=1e-5)
    assert damage is not None
    assert damage > 1e-3


def test_what_nobody_reads_does_no_damage_and_scores_next_to_nothing() -> None:
    found, samples = evidence()
    aware = dataclasses.replace(found, damage=Damage(found, samples, "CPUExecutionProvider"))
    by_weight = {g.readers[0].linear.weight: i for i, g in enumerate(found.analysis.groups)}
    unread, read = by_weight["w4"], by_weight["w2"]

    local = [r.scores for r in Reconstruction(measured=False).rank(aware)]
    measured = [r.scores for r in Reconstruction().rank(aware)]

    assert local[unread].sum() > 0.01 * local[read].sum()  # a local loss does not know
    # 1e-6 / loss of what is left of it: see _ROUNDING
    assert measured[unread].sum() < 1e-3 * measured[read].sum()
    assert (np.argsort(measured[read]) == np.argsort(local[read])).all()


@pytest.mark.parametrize("share", [0.5, 0.75])
def test_scores_of_the_cheaper_part_sum_up_to_its_damage(share: float) -> None:
    found, samples = evidence()
    damage = Damage(found, samples, "CPUExecutionProvider")
    aware = dataclasses.replace(found, damage=damage)

    for group, ranking in zip(found.analysis.groups, Reconstruction().rank(aware), strict=True):
        part = np.argsort(ranking.scores, kind="stable")[: int(share * len(group))]
        expected = damage(np.sort(group.units[part]))
        assert ranking.scores[part].sum() == pytest.approx(expected, rel=1e-3, abs=4e-6)


def test_ridge_of_few_rows_is_nearer_to_the_truth() -> None:
    width = 80
    scales = np.linspace(0.2, 3, width)
    x = RNG.standard_normal((40, width)) * scales
    seen = SecondMoments(40, x.mean(0)[None], np.cov(x.T, bias=True)[None])

    (ridge,) = seen.ridge(1e-3)
    mean = np.trace(seen.covariance[0]) / width
    shrunk = (seen.covariance[0] + ridge * mean * np.eye(width)) / (1 + ridge)

    truth = np.diag(scales**2)
    assert ridge > 0.3
    assert np.linalg.norm(shrunk - truth) < 0.7 * np.linalg.norm(seen.covariance[0] - truth)
    assert seen.ridge(2.0) == 2.0  # never below what is asked
    assert dataclasses.replace(seen, rows=2 * width).ridge(1e-3) == 1e-3


def test_fewer_rows_than_columns_do_not_make_units_free() -> None:
    """Eight rows of sixteen columns: without a ridge by rows most units would cost nothing."""
    found, _ = evidence()
    (wide,) = (g for g in found.analysis.groups if g.readers[0].linear.weight == "w2")
    second = dict(found.required().second)
    node = wide.readers[0].linear.node
    few = RNG.standard_normal((8, 16))
    second[node] = SecondMoments(8, few.mean(0)[None], np.cov(few.T, bias=True)[None])
    statistics = dataclasses.replace(found.required(), second=second)

    scores = Reconstruction(measured=False).score(
        wide, dataclasses.replace(found, statistics=statistics)
    )

    assert scores.min() > 0.02 * scores.max()


def test_all_of_an_axis_is_not_measured() -> None:
    found, samples = evidence()
    group = found.analysis.groups[0]

    assert Damage(found, samples, "CPUExecutionProvider")(group.units) is None
