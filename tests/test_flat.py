"""Repair that knows of the ReLU behind an operator: what nobody sees need not be met."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from onnxprune.core.contracts import Evidence, RepairTask, Samples
from onnxprune.core.graph import Graph
from onnxprune.core.runtime import Session
from onnxprune.discover import discover
from onnxprune.passes.surgery._flat import EVERYWHERE, flat_ends
from onnxprune.passes.surgery.channels import remove_channels
from onnxprune.passes.surgery.sequential import SequentialRepair
from onnxprune.proof.prove import relative_gap
from onnxprune.structure.dependency import analyse
from tests.handmade import handmade

discover()

# hidden units 0 and 1 are kept: relu(x0) and relu(-x0), so x0; unit 2 goes
TEXT = """(float[N, 2] x) => (float[N, 3] y) {
    a = Gemm(x, w1)
    b = Relu(a)
    c = Gemm(b, w2, b2)
    d = %s
    y = Gemm(d, w3)
}"""


def planted(reader: str) -> Graph:
    """Unit 2 has a say in c only where c is negative anyhow: for x0 < -1/2.

    Behind a ReLU the others give c exactly. Before it, no linear map of theirs bends as unit 2 does.
    """
    w1 = np.array([[1.0, -1.0, -1.0], [0.0, 0.0, 0.0]])
    w2 = np.array([[1.0, 2.0, 0.5, 1.0], [-1.0, -2.0, -0.5, -1.0], [-30.0, -10.0, -20.0, -20.0]])
    weights = {
        "w1": w1,
        "w2": w2,
        "b2": np.zeros(4),
        "w3": np.random.default_rng(0).normal(size=(4, 3)),
    }
    text = TEXT.replace("Gemm(x, w1)", "Gemm(x, w1, b1)") % reader
    weights["b1"] = np.array([0.0, 0.0, -0.5])
    given: dict[str, Any] = {name: array.astype(np.float32) for name, array in weights.items()}
    return Graph.from_model(handmade(text, **given))


def task(graph: Graph, gone: int = 2) -> RepairTask:
    analysis = analyse(graph)
    x = np.random.default_rng(5).standard_normal((400, 2)).astype(np.float32)
    (group,) = (g for g in analysis.groups if any(m.tensor == "w1" for m in g.members))
    mask = analysis.mask(group.units[[gone]])
    samples = Samples(len(x), lambda a, b: {"x": x[a:b]})
    return RepairTask(mask, remove_channels(mask), Evidence(analysis, None), samples, 1e-9)


def gap(work: RepairTask, steps: int) -> float:
    """How far the repaired outputs are from the original's, relatively."""
    assert work.samples is not None
    repaired = SequentialRepair(steps).apply(work)
    feeds = work.samples.read(0, work.samples.count)
    before, after = (
        next(iter(Session(g.to_model()).run(feeds).values()))
        for g in (work.mask.analysis.graph, repaired)
    )
    return relative_gap(np.asarray(before), np.asarray(after))


def test_what_a_relu_hides_is_not_paid_for() -> None:
    """The plain refit spreads what it cannot meet; the aware one meets all that is seen."""
    work = task(planted("Relu(c)"))
    assert gap(work, 0) > 0.05
    assert gap(work, 4) < 0.005
    assert gap(work, 60) < 1e-5


@pytest.mark.parametrize("reader", ["LeakyRelu(c)", "Sigmoid(c)"])
def test_without_a_flat_part_steps_change_nothing(reader: str) -> None:
    work = task(planted(reader))
    plain, aware = (SequentialRepair(steps).apply(work) for steps in (0, 2))
    for name, weight in plain.weights.items():
        np.testing.assert_array_equal(weight.array, aware.weights[name].array)


@pytest.mark.parametrize(
    ("reader", "ends"),
    [
        ("Relu(c)", (0.0, math.inf)),
        ("Clip(c, low, high)", (0.0, 6.0)),
        ("Clip(c, low)", (0.0, math.inf)),
        ("Clip(c, , high)", (-math.inf, 6.0)),
        ("Tanh(c)", EVERYWHERE),
    ],
)
def test_ends(reader: str, ends: tuple[float, float]) -> None:
    values = {"low": np.array(0.0, np.float32), "high": np.array(6.0, np.float32)}
    weights: dict[str, Any] = {name: v for name, v in values.items() if name in reader}
    weights["w"] = np.ones((2, 2), np.float32)
    text = "(float[N, 2] x) => (float[N, 2] y) { c = MatMul(x, w) y = " + reader + " }"
    graph = Graph.from_model(handmade(text, **weights))
    assert flat_ends(graph, "c") == ends
    assert flat_ends(graph, "y") == EVERYWHERE
