"""Repair that knows of the ReLU behind an operator: what nobody sees need not be met."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from onnxprune.core.contracts import Evidence, RepairTask, Samples
from onnxprune.core.graph import Graph
from onnxprune.core.runtime import Session
from onnxprune.discover import discover
from onnxprune.passes.surgery._ends import flat_ends
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
    %s
    y = Gemm(d, w3)
}"""


def planted(reader: str, **others: Sequence[float]) -> Graph:
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
    weights |= {name: np.array(values) for name, values in others.items()}
    given: dict[str, Any] = {name: array.astype(np.float32) for name, array in weights.items()}
    return Graph.from_model(handmade(text, **given))


def task(graph: Graph, gone: int = 2) -> RepairTask:
    analysis = analyse(graph)
    x = np.random.default_rng(5).standard_normal((400, 2)).astype(np.float32)
    (group,) = (g for g in analysis.groups if any(m.tensor == "w1" for m in g.members))
    mask = analysis.mask(group.units[[gone]])
    samples = Samples(len(x), lambda a, b: {"x": x[a:b]})
    return RepairTask(mask, remove_channels(mask), Evidence(analysis, None), samples, 1e-9)


def outputs(work: RepairTask, steps: int) -> tuple[Any, Any]:
    """What the original computes, and the repaired model."""
    assert work.samples is not None
    repaired = SequentialRepair(steps).apply(work)
    feeds = work.samples.read(0, work.samples.count)
    before, after = (
        np.asarray(next(iter(Session(g.to_model()).run(feeds).values())))
        for g in (work.mask.analysis.graph, repaired)
    )
    return before, after


def gap(work: RepairTask, steps: int) -> float:
    """How far the repaired outputs are from the original's, relatively, at worst."""
    return relative_gap(*outputs(work, steps))


def error(work: RepairTask, steps: int) -> float:
    """The same in the mean: as a share of their deviation."""
    before, after = outputs(work, steps)
    return float(np.sqrt(((after - before) ** 2).mean()) / before.std())


def test_what_a_relu_hides_is_not_paid_for() -> None:
    """The plain refit spreads what it cannot meet; the aware one meets all that is seen."""
    work = task(planted("d = Relu(c)"))
    assert gap(work, 0) > 0.05
    assert gap(work, 4) < 0.005
    assert gap(work, 60) < 1e-5


@pytest.mark.parametrize("reader", ["d = LeakyRelu(c)", "d = Softplus(c)"])
def test_without_a_flat_part_steps_change_nothing(reader: str) -> None:
    work = task(planted(reader))
    plain, aware = (SequentialRepair(steps).apply(work) for steps in (0, 2))
    for name, weight in plain.weights.items():
        np.testing.assert_array_equal(weight.array, aware.weights[name].array)


def test_what_a_relu_behind_batch_normalization_hides_is_not_paid_for() -> None:
    """As above: mean and beta move every channel away from zero and back."""
    text = "e = BatchNormalization<epsilon = 0.0>(c, gamma, beta, mean, variance) d = Relu(e)"
    given = {"gamma": [1.0, 3.0, 0.5, 1.0], "mean": [1.0, -1.0, 2.0, 0.5]}
    moved = np.prod([*given.values()], axis=0)
    work = task(planted(text, **given, beta=moved, variance=[1.0] * 4))
    assert gap(work, 0) > 0.05
    assert gap(work, 60) < 1e-5


def test_of_what_a_sigmoid_nearly_hides_little_is_paid_for() -> None:
    """Scores far below zero, by more or less: background, however sure."""
    work = task(planted("e = Mul(c, steep) d = Sigmoid(e)", steep=[10.0] * 4))
    assert error(work, 8) < 0.75 * error(work, 0)


INFINITE = math.inf
TAIL = math.log(9)  # where a tenth of a sigmoid's range is left


@pytest.mark.parametrize(
    ("reader", "lo", "hi"),
    [
        ("Relu(c)", 0.0, INFINITE),
        ("Clip(c, low, high)", 0.0, 6.0),
        ("Clip(c, low)", 0.0, INFINITE),
        ("Clip(c, , high)", -INFINITE, 6.0),
        ("HardSigmoid(c)", -2.5, 2.5),
        ("HardSigmoid<alpha = 0.25, beta = 0.25>(c)", -1.0, 3.0),
        ("HardSwish(c)", -3.0, INFINITE),
        ("Sigmoid(c)", -TAIL, TAIL),
        ("Tanh(c)", -TAIL / 2, TAIL / 2),
        ("Softplus(c)", -INFINITE, INFINITE),
        ("Add(c, wide) y = Relu(d)", [-1.0, 2.0], INFINITE),
        ("Sub(c, wide) y = Relu(d)", [1.0, -2.0], INFINITE),
        ("Sub(wide, c) y = Relu(d)", -INFINITE, [1.0, -2.0]),
        ("Mul(wide, c) y = Clip(d, low, high)", [0.0, -3.0], [6.0, 0.0]),
        ("Div(c, wide) y = Clip(d, low, high)", [0.0, -12.0], [6.0, 0.0]),
        ("Div(wide, c) y = Relu(d)", -INFINITE, INFINITE),
        ("Mul(c, none) y = Relu(d)", [-INFINITE, 0.0], INFINITE),
        ("Add(c, high) y = Relu(d)", -6.0, INFINITE),
        ("Add(c, rows) y = Relu(d)", -INFINITE, INFINITE),
        (
            "BatchNormalization(c, gamma, wide, mean, variance) y = Relu(d)",
            [1.0, -INFINITE],
            [INFINITE, 2.0],
        ),
    ],
)
def test_ends(reader: str, lo: float | list[float], hi: float | list[float]) -> None:
    values = {
        "low": 0.0, "high": 6.0, "wide": [1.0, -2.0], "none": [0.0, 1.0], "rows": [[1.0], [2.0]],
        "gamma": [2.0, -1.0], "mean": [2.0, 3.0], "variance": [4.0, 0.25],
    }  # fmt: skip
    weights: dict[str, Any] = {n: np.array(v, np.float32) for n, v in values.items() if n in reader}
    weights["w"] = np.ones((2, 2), np.float32)
    first = ("d = " if " y = " in reader else "y = ") + reader
    shape = "2, 2" if "rows" in reader else "N, 2"
    text = f"(float[{shape}] x) => (float[{shape}] y) {{ c = MatMul(x, w) {first} }}"
    graph = Graph.from_model(handmade(text, **weights))

    found = flat_ends(graph, "c", 2)
    for end, expected in zip(found, (lo, hi), strict=True):
        np.testing.assert_allclose(end, np.broadcast_to(expected, 2), rtol=1e-4)
    assert not np.isfinite(flat_ends(graph, "y", 2)).any()


@pytest.mark.parametrize("op", ["Relu", "HardSigmoid", "HardSwish", "Sigmoid", "Tanh"])
def test_readers_cannot_tell_apart_what_is_said_to_be_flat(op: str) -> None:
    graph = Graph.from_model(
        handmade(
            f"(float[N, 1] x) => (float[N, 1] y) {{ c = MatMul(x, w) y = {op}(c) }}",
            w=np.ones((1, 1), np.float32),
        )
    )
    (lo,), (hi,) = flat_ends(graph, "c", 1)
    grid = np.linspace(0, 50, 500, dtype=np.float32)[:, None]
    allowed = 0.1 if op in {"Sigmoid", "Tanh"} else 1e-6  # of the range
    for beyond in [x for x, end in ((lo - grid, lo), (hi + grid, hi)) if np.isfinite(end)]:
        (seen,) = Session(graph.to_model()).run({"x": beyond.astype(np.float32)}).values()
        assert np.ptp(seen) <= allowed * (2 if op == "Tanh" else 1) + 1e-6


def test_all_readers_have_to_be_flat() -> None:
    text = """(float[N, 2] x) => (float[N, 2] y, float[N, 2] z) {
        c = MatMul(x, w)
        y = HardSigmoid(c)
        z = %s(c)
    }"""
    w = np.ones((2, 2), np.float32)
    narrow, none = (Graph.from_model(handmade(text % op, w=w)) for op in ("HardSwish", "Softplus"))
    lo, hi = flat_ends(narrow, "c", 2)
    assert (lo.tolist(), hi.tolist()) == ([-3, -3], [math.inf] * 2)
    assert not np.isfinite(flat_ends(none, "c", 2)).any()
