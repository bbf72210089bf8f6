"""Criteria by gradients: exact small cases, and what they promise of samples and labels."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("torch")

from onnxprune.core.analysis import Analysis, Group
from onnxprune.core.configured import configured
from onnxprune.core.contracts import CRITERIA, Evidence, Floats, Samples
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.graph import Array, Graph
from onnxprune.discover import discover
from onnxprune.pipeline.collect import collect
from onnxprune.structure.dependency import analyse
from onnxprune.torch import from_onnx
from tests.networks import NETWORKS, Network

discover()

SMOOTH = Network(  # a tiny net whose derivatives exist everywhere
    """net (float[N,4] x) => (float[N,3] y) {
        a = Gemm(x, w1, b1)
        b = Tanh(a)
        y = Gemm(b, w2, b2)
    }""",
    {"w1": (4, 6), "b1": (6,), "w2": (6, 3), "b2": (3,)},
)
WEIGHTS = ("w1", "b1", "w2", "b2")
COUNT = 24


def doubled(values: dict[str, Array], x: Array, y: Array) -> Floats:
    """Cross-entropy of each sample, in float64 by hand."""
    hidden = np.tanh(x @ values["w1"] + values["b1"])
    logits = hidden @ values["w2"] + values["b2"]
    logits -= logits.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(x)), y])


def drawn() -> tuple[Analysis, dict[str, Array], Array, Array]:
    analysis = analyse(SMOOTH.graph())
    rng = np.random.default_rng(3)
    x = rng.standard_normal((COUNT, 4)).astype(np.float32)
    values = {n: analysis.graph.weights[n].array.astype(np.float64) for n in WEIGHTS}
    return analysis, values, x.astype(np.float64), rng.integers(0, 3, COUNT)


def labelled(x: Array, y: Array, batch: int | None = None) -> Samples:
    arrays = {"x": x.astype(np.float32), "t": y}
    return Samples(
        len(x), lambda a, b: {n: v[a:b] for n, v in arrays.items()}, extra=("t",), batch=batch
    )


def facts(name: str, analysis: Analysis, x: Array, y: Array) -> Evidence:
    needs = configured(CRITERIA, name)[1].needs
    statistics = collect(analysis, labelled(x, y), needs, labels="t")
    return Evidence(analysis, statistics, labels="t")


def slope(of: Callable[[dict[str, Array]], Floats], at: dict[str, Array], name: str) -> Array:
    """Central differences of values of shape (N,) by one weight: (N, *shape)."""
    step = 1e-5
    found = []
    for place in np.ndindex(at[name].shape):
        moved = []
        for sign in (1, -1):
            other = {n: v.copy() for n, v in at.items()}
            other[name][place] += sign * step
            moved.append(of(other))
        found.append((moved[0] - moved[1]) / (2 * step))
    return np.stack(found, axis=1).reshape(-1, *at[name].shape)


def sliced(unit: int, values: dict[str, Array]) -> list[Array]:
    """What hidden unit `unit` owns: a column of w1, a bias, a row of w2."""
    return [values["w1"][..., unit], values["b1"][..., unit, None], values["w2"][..., unit, :]]


def score(name: str, evidence: Evidence) -> Floats:
    (ranking,) = configured(CRITERIA, name)[1].rank(evidence)
    return ranking.scores


def test_taylor_snip_and_obd_equal_finite_differences() -> None:
    analysis, values, x, y = drawn()
    slopes = {n: slope(lambda v: doubled(v, x, y), values, n) for n in WEIGHTS}  # (N, ...)
    means = {n: s.mean(axis=0) for n, s in slopes.items()}
    squares = {n: (s**2).mean(axis=0) for n, s in slopes.items()}
    total = sum(np.abs(values[n] * means[n]).sum() for n in WEIGHTS)
    taylor, snip, obd = [], [], []
    for unit in range(6):
        w, g, f = (sliced(unit, part) for part in (values, means, squares))
        taylor.append(sum(abs((a * b).sum()) for a, b in zip(w, g, strict=True)))
        snip.append(sum(np.abs(a * b).sum() for a, b in zip(w, g, strict=True)) / total)
        obd.append(sum((a**2 * b).sum() for a, b in zip(w, f, strict=True)) / 2)

    for name, expected in (("taylor:of=weight", taylor), ("snip", snip), ("obd", obd)):
        found = score(name, facts(name, analysis, x, y))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7, err_msg=name)


def test_gates_are_the_derivative_by_a_factor_on_the_unit() -> None:
    analysis, values, x, y = drawn()

    def gated(gates: dict[str, Array]) -> Floats:
        rows = values | {"w2": values["w2"] * gates["gate"][:, None]}
        return doubled(rows, x, y)

    by_gate = slope(gated, {"gate": np.ones(6)}, "gate")  # (N, 6)
    evidence = facts("fisher", analysis, x, y)
    np.testing.assert_allclose(score("fisher", evidence), (by_gate**2).mean(0) / 2, rtol=1e-4)
    np.testing.assert_allclose(score("taylor", evidence), np.abs(by_gate).mean(0), rtol=1e-4)


def test_grasp_and_sosp_equal_finite_differences_of_gradients() -> None:
    analysis, values, x, y = drawn()

    def gradient(at: dict[str, Array]) -> dict[str, Array]:
        return {n: slope(lambda v: doubled(v, x, y), at, n).mean(axis=0) for n in WEIGHTS}

    def product(along: dict[str, Array]) -> dict[str, Array]:
        ends = [{n: values[n] + s * 1e-3 * along[n] for n in WEIGHTS} for s in (1, -1)]
        up, down = map(gradient, ends)
        return {n: (up[n] - down[n]) / 2e-3 for n in WEIGHTS}

    g = gradient(values)
    along_g = product(g)
    along_w = product({n: values[n] * (n != "b2") for n in WEIGHTS})  # no unit owns b2
    grasp, sosp = [], []
    for unit in range(6):
        w, first, hg, ht = (sliced(unit, part) for part in (values, g, along_g, along_w))
        grasp.append(sum(np.abs(a * b).sum() for a, b in zip(w, hg, strict=True)))
        one = sum((a * b).sum() for a, b in zip(w, first, strict=True))
        two = sum((a * b).sum() for a, b in zip(w, ht, strict=True))
        sosp.append(abs(one) + abs(two) / 2)

    for name, expected in (("grasp", grasp), ("sosp", sosp)):
        found = score(name, facts(name, analysis, x, y))
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-6, err_msg=name)


def test_signs_are_counted_when_asked_for() -> None:
    analysis, _, x, y = drawn()
    evidence = facts("grasp", analysis, x, y)
    signed = dataclasses.replace(CRITERIA["grasp"], combine="sum")  # type: ignore[type-var]

    found = signed.rank(evidence)[0].scores

    assert (np.abs(found) <= score("grasp", evidence) + 1e-9).all()
    assert (found < 0).any()


def test_synflow_is_what_flows_through_a_unit() -> None:
    analysis, values, _, _ = drawn()
    w = {n: np.abs(v) for n, v in values.items()}
    into = w["w1"].sum(axis=0) + w["b1"]
    hidden = np.tanh(into)
    out = w["w2"].sum(axis=1)
    slope_in = (1 - hidden**2) * out  # dR / d(what comes into a unit)
    expected = into * slope_in + hidden * out  # its column and bias, then its row
    once = dataclasses.replace(CRITERIA["synflow"], rounds=1)  # type: ignore[type-var]

    found = once.rank(Evidence(analysis, None))[0].scores

    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_synflow_in_rounds_looks_again_after_each_removal() -> None:
    """By hand: the least unit goes, flow is measured without it, and so on; linear, two layers."""
    network = Network(
        """net (float[N,4] x) => (float[N,3] y) {
            a = MatMul(x, w1)
            b = MatMul(a, w2)
            y = MatMul(b, w3)
        }""",
        {"w1": (4, 5), "w2": (5, 4), "w3": (4, 3)},
    )
    analysis = analyse(network.graph())
    w1, w2, w3 = (
        np.abs(analysis.graph.weights[n].array.astype(np.float64)) for n in ("w1", "w2", "w3")
    )
    order: list[tuple[int, int]] = []
    gone: tuple[set[int], set[int]] = (set(), set())
    while len(order) < 5:
        a, b, c = w1.copy(), w2.copy(), w3.copy()
        for unit in gone[0]:
            a[:, unit], b[unit] = 0, 0
        for unit in gone[1]:
            b[:, unit], c[unit] = 0, 0
        flows = (2 * a.sum(0) * (b @ c).sum(1), 2 * (a @ b).sum(0) * c.sum(1))
        open_units = [
            (float(flows[g][u]), g, u)
            for g, size in ((0, 5), (1, 4))
            for u in range(size)
            if u not in gone[g] and u != int(np.argmax(flows[g]))
        ]
        _, group, unit = min(open_units)
        gone[group].add(unit)
        order.append((group, unit))
    many = dataclasses.replace(CRITERIA["synflow"], rounds=200, share=0.4)  # type: ignore[type-var]

    found = [ranking.scores for ranking in many.rank(Evidence(analysis, None))]

    heights = [found[group][unit] for group, unit in order]
    assert heights == sorted(heights)
    assert max(heights) <= min(
        float(found[g][u]) for g, size in ((0, 5), (1, 4)) for u in range(size) if u not in gone[g]
    )


def test_imp_adds_up_all_weights_of_a_unit() -> None:
    analysis, values, _, _ = drawn()
    expected = [sum(np.abs(part).sum() for part in sliced(u, values)) for u in range(6)]

    np.testing.assert_allclose(score("imp", Evidence(analysis, None)), expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["taylor", "obd", "sosp"])
def test_neither_order_nor_batches_change_scores(name: str) -> None:
    analysis, _, x, y = drawn()
    order = np.random.default_rng(0).permutation(COUNT)
    whole = facts(name, analysis, x, y)

    parts = collect(
        analysis, labelled(x[order], y[order]), CRITERIA[name].needs, labels="t", batch=5
    )

    found = score(name, Evidence(analysis, parts))
    np.testing.assert_allclose(found, score(name, whole), rtol=1e-4, atol=1e-9)


def test_without_labels_the_likeliest_class_is_the_target() -> None:
    analysis, values, x, _ = drawn()
    hidden = np.tanh(x @ values["w1"] + values["b1"])
    own = (hidden @ values["w2"] + values["b2"]).argmax(axis=1)

    without = collect(analysis, labelled(x, own), {"gradients"})

    found = score("taylor", Evidence(analysis, without))
    np.testing.assert_allclose(found, score("taylor", facts("taylor", analysis, x, own)), rtol=1e-6)


def test_a_teachers_outputs_are_targets_too() -> None:
    analysis, _, x, y = drawn()
    sure = np.full((COUNT, 3), -40.0, np.float32)
    sure[np.arange(COUNT), y] = 40.0

    soft = collect(analysis, labelled(x, sure), {"gradients"}, labels="t")

    found = score("taylor", Evidence(analysis, soft))
    np.testing.assert_allclose(found, score("taylor", facts("taylor", analysis, x, y)), rtol=1e-5)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.full(COUNT, 3), "labels lie between 3 and 3, the model has 3 classes"),
        (np.zeros((COUNT, 7), np.int64), r"labels of shape \[24, 7\] and type torch.int64 fit no"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: Array, says: str) -> None:
    analysis, _, x, _ = drawn()
    with pytest.raises(OnnxPruneError, match=says) as caught:
        collect(analysis, labelled(x, labels), {"gradients"}, labels="t")
    assert "\n" not in str(caught.value)


def test_outputs_that_are_no_classes_have_gradients() -> None:
    analysis = analyse(NETWORKS["concat"].graph())  # its output is a map
    x = np.random.default_rng(5).standard_normal((8, 3, 8, 8)).astype(np.float32)

    found = collect(analysis, Samples(8, lambda a, b: {"x": x[a:b]}), {"gradients"}).gradients

    assert found is not None
    assert all(np.abs(slope).max() > 0 for slope in found.weights.values())


def test_fixed_batches_go_through_whole() -> None:
    text = NETWORKS["dense"].text.replace("float[N,", "float[4,")
    analysis = analyse(Network(text, NETWORKS["dense"].shapes).graph())
    free = analyse(NETWORKS["dense"].graph())
    x = np.random.default_rng(5).standard_normal((8, 10)).astype(np.float32)
    read = lambda a, b: {"x": x[a:b]}  # noqa: E731

    for need in ("gradients", "curvature"):
        fixed = collect(analysis, Samples(8, read, batch=4), {need})
        whole = collect(free, Samples(8, read), {need})
        slopes = [_slopes(statistics) for statistics in (fixed, whole)]
        for name, values in slopes[1].items():
            np.testing.assert_allclose(slopes[0][name], values, rtol=1e-4, atol=1e-6)


def _slopes(statistics: object) -> dict[str, Array]:
    gradients = getattr(statistics, "gradients", None)
    if gradients is not None:
        return dict(gradients.weights)
    return dict(statistics.curvature.along_weights)  # type: ignore[attr-defined]


def test_derivatives_are_those_of_the_converted_module() -> None:
    """Every initializer that `from_onnx` makes a parameter of has a gradient, and no other."""
    graph: Graph = NETWORKS["residual"].graph()
    analysis = analyse(graph)
    x = np.random.default_rng(5).standard_normal((8, 3, 8, 8)).astype(np.float32)

    found = collect(analysis, Samples(8, lambda a, b: {"x": x[a:b]}), {"gradients"}).gradients

    assert found is not None
    held = {n for n, _ in from_onnx(analysis.graph).named_parameters()}
    assert set(found.weights) == held
    group: Group = analysis.groups[0]
    assert {m.tensor for m in group.members} & held


@pytest.mark.parametrize("name", ["taylor", "synflow"])
def test_without_pytorch_they_say_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    analysis, _, x, y = drawn()
    monkeypatch.setitem(sys.modules, "torch", None)
    for module in ("onnxprune.torch.gradients", "onnxprune.torch.flow"):
        monkeypatch.delitem(sys.modules, module, raising=False)

    with pytest.raises(OnnxPruneError, match=r"PyTorch: pip install") as caught:
        CRITERIA[name].rank(
            facts(name, analysis, x, y) if CRITERIA[name].needs else Evidence(analysis, None)
        )
    assert "\n" not in str(caught.value)
