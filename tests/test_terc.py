"""Ridge-TERC against plain refits, and on sets whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxprune.passes.criteria._terc import Ridge, eliminated, schedule
from onnxprune.passes.criteria._terc_walk import judged, perceptrons

Floats = NDArray[np.float64]


def problem(
    seed: int = 0, rows: int = 120, nodes: int = 12, targets: int = 5
) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, nodes)) @ rng.standard_normal((nodes, nodes)) + 3
    y = np.maximum(x @ rng.standard_normal((nodes, targets)), 0) + rng.standard_normal(
        (rows, targets)
    )
    return x, y


def standard(values: Floats) -> Floats:
    centred: Floats = values - values.mean(axis=0)
    return np.asarray(centred / centred.std(axis=0))


def fit(x: Floats, y: Floats, damping: float) -> Floats:
    system = x.T @ x + damping * len(x) * np.eye(x.shape[1])
    return np.asarray(np.linalg.solve(system, x.T @ y))


def penalised(x: Floats, y: Floats, damping: float) -> float:
    weights = fit(x, y, damping)
    return float(((y - x @ weights) ** 2).sum() + damping * len(x) * (weights**2).sum())


@pytest.mark.parametrize("damping", [1e-4, 1e-2])
def test_the_rise_is_that_of_a_refit(damping: float) -> None:
    x, y = problem()
    ridge = Ridge(x, y, damping)
    xs, ys = standard(x), standard(y)
    before = penalised(xs, ys, damping)

    for node, rise in enumerate(ridge.rises()):
        after = penalised(np.delete(xs, node, axis=1), ys, damping)
        assert rise == pytest.approx((after - before) / ys.size, rel=1e-9)


def test_removals_one_by_one_equal_a_refit() -> None:
    x, y = problem(1, rows=300, nodes=90)
    ridge = Ridge(x, y, 1e-3)
    order = np.random.default_rng(0).permutation(90)[:80]  # crosses a fresh inverse
    for node in order:
        ridge.remove(int(node))
    left = np.setdiff1d(np.arange(90), order)
    xs, ys = standard(x), standard(y)

    weights = fit(xs[:, left], ys, 1e-3)

    np.testing.assert_allclose(ridge.weights[left], weights, rtol=1e-8, atol=1e-11)
    assert not ridge.weights[order].any()
    squares = ((ys - xs[:, left] @ weights) ** 2).sum(axis=1)
    np.testing.assert_allclose(ridge.squares, squares, atol=1e-9)
    fresh = Ridge(x[:, left], y, 1e-3)
    np.testing.assert_allclose(ridge.held_out(), fresh.held_out(), rtol=1e-9)
    for place, node in enumerate(left):
        np.testing.assert_allclose(ridge.held_out(int(node)), fresh.held_out(place), rtol=1e-8)


def test_held_out_losses_are_those_of_fits_without_the_sample() -> None:
    """With the damping of all samples, as one sample more or less does not change it."""
    x, y = problem(2, rows=40, nodes=6)
    xs, ys = standard(x), standard(y)
    damping = 1e-2 * len(xs)
    for without in (None, 3):
        inside = [n for n in range(6) if n != without]
        expected = []
        for i in range(len(xs)):
            rest = np.delete(np.arange(len(xs)), i)
            a = xs[rest][:, inside]
            weights = np.linalg.solve(a.T @ a + damping * np.eye(len(inside)), a.T @ ys[rest])
            expected.append(((ys[i] - xs[i, inside] @ weights) ** 2).mean())
        found = Ridge(x, y, 1e-2).held_out(without)
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_confidence_values_of_the_paper() -> None:
    levels = schedule()
    assert levels[:3].tolist() == [0.5, 0.75, 0.875]
    assert len(levels) == 20
    np.testing.assert_allclose(np.diff(levels), (1 - levels[:-1]) * 0.5)


def redundant(rows: int = 2000) -> tuple[Floats, Floats, dict[str, list[int]]]:
    """Four sources; two copies of the first; one sum of two sources; three of noise; one constant."""
    rng = np.random.default_rng(5)
    sources = rng.standard_normal((rows, 4))
    copies = sources[:, [0, 0]] * [2, -3] + 1
    summed = sources[:, [1]] + sources[:, [2]]
    noise = rng.standard_normal((rows, 3)) * 10
    x = np.concatenate([sources, copies, summed, noise, np.full((rows, 1), 7.0)], axis=1)
    y = sources @ rng.standard_normal((4, 6)) + 0.1 * rng.standard_normal((rows, 6))
    return x, y, {"noise": [7, 8, 9, 10], "first": [0, 4, 5], "sum": [1, 2, 6]}


@pytest.mark.parametrize("seed", range(5))
def test_planted_redundancy_is_found_exactly(seed: int) -> None:
    """Noise and constants go, of three copies one stays, of a linear dependence any one goes."""
    x, y, planted = redundant()
    order = np.random.default_rng(seed).permutation(x.shape[1])
    where = np.argsort(order)

    found = judged(x[:, order], y, seed=seed)

    kept = {name: int(found.keep[where[nodes]].sum()) for name, nodes in planted.items()}
    assert kept == {"noise": 0, "first": 1, "sum": 2}
    assert found.keep.sum() == 4
    assert found.loss[1] == pytest.approx(found.loss[0], abs=1e-3)


# -- the sets of Westphal et al. 2024, arXiv 2401.11512: three of six variables suffice -----------
def variables(copied: list[int], rows: int = 1500) -> Floats:
    """Three fair bits, and copies of some of them."""
    bits = np.random.default_rng(11).integers(0, 2, (rows, 3)).astype(np.float64)
    return np.concatenate([bits, bits[:, copied]], axis=1)


def all_alike(x: Floats) -> Floats:
    """1 if the three bits are alike: no bit tells anything alone, nor in a linear predictor."""
    return np.asarray(x[:, :3].sum(axis=1) % 3 == 0, np.float64)[:, None]


@pytest.mark.parametrize("copied", [[0, 0, 0], [0, 1, 2]])
def test_exactly_three_variables_survive_with_networks(copied: list[int]) -> None:
    pytest.importorskip("torch")
    x = variables(copied)
    networks = perceptrons(0, hidden=32, first=300, again=60, ordering=20)

    found = judged(x, all_alike(x), fit=networks, tolerance=0.01, nulls=3)

    sources = np.array([0, 1, 2, *copied])[found.keep]
    assert sorted(sources) == [0, 1, 2]
    assert found.loss[0] < 0.02
    assert found.loss[1] < 0.02


@pytest.mark.parametrize("copied", [[0, 0, 0], [0, 1, 2]])
def test_exactly_three_variables_survive_with_ridge_where_they_add_up(copied: list[int]) -> None:
    x = variables(copied)
    added = x[:, :3] @ np.array([[1.0, 2.0], [3.0, -1.0], [-2.0, 1.0]])
    found = judged(x, added, tolerance=0.01)
    assert sorted(np.array([0, 1, 2, *copied])[found.keep]) == [0, 1, 2]

    blind = judged(x, all_alike(x))
    assert blind.loss[0] > 0.99  # and it says so: nothing is told, so nothing stays
    assert not blind.keep.any()


def test_networks_that_are_tried_stay_as_they_were() -> None:
    pytest.importorskip("torch")
    x, y, _ = redundant(300)
    fit = perceptrons(1, hidden=16, first=50, again=5)
    first, again = fit(x, y), fit(x, y)

    tried = first.held_out(without=2)
    np.testing.assert_array_equal(first.held_out(), again.held_out())
    assert first.open[2]

    first.remove(2)
    np.testing.assert_array_equal(first.held_out(), tried)
    assert not first.open[2]
    assert not first.open[10]  # constant


def test_five_estimates_are_less_sure() -> None:
    """The same data in five pools: the mean rise is the same, and certainty asks for more."""
    x, y = problem(7, rows=500, nodes=20)
    pools = np.arange(500) % 5
    each = judged(x, y, confidence=0.999, nulls=0)
    five = judged(x, y, confidence=0.999, nulls=0, pools=pools)
    first = each.order[0]
    assert five.rise[first] == pytest.approx(each.rise[first], rel=1e-12)
    assert five.keep.sum() < each.keep.sum()


def test_elimination_takes_what_is_redundant_first() -> None:
    x, y, planted = redundant()
    order, rise = eliminated(x, y)

    assert set(order[:5].tolist()) >= {7, 8, 9, 10} - {0}
    assert rise[order[6]] < 1e-3 < rise[order[7]]
    assert (np.diff(rise[order]) >= -1e-12).all()
    assert rise.sum() == pytest.approx(1 - 1e-3, abs=0.02)  # all variance there is to explain
    assert len(planted["first"]) == 3


def test_a_higher_confidence_and_tolerance_prune_more() -> None:
    x, y = problem(3, rows=200, nodes=20)
    for option, values in {"confidence": (0.5, 0.9, 0.9999), "tolerance": (0.0, 0.05, 0.3)}.items():
        kept = [int(judged(x, y, **{option: v}).keep.sum()) for v in values]  # type: ignore[arg-type]
        assert kept == sorted(kept, reverse=True)
        assert kept[0] > kept[-1]


def test_the_total_rise_stays_within_the_tolerance() -> None:
    """The reference is the loss of all nodes: what goes early counts against what comes later."""
    x, y = problem(4, rows=400, nodes=30)
    full = judged(x, y, confidence=0.5, tolerance=0.05, nulls=0)
    drifting = judged(x, y, confidence=0.5, tolerance=0.05, nulls=0, reference="current")
    assert full.loss[1] - full.loss[0] <= 0.05 + 1e-9
    assert drifting.loss[1] - drifting.loss[0] > full.loss[1] - full.loss[0]


def test_what_was_learnt_by_heart_is_no_reference() -> None:
    """Nearly as many nodes as samples: all predict worse than few, and few tell all there is."""
    rng = np.random.default_rng(8)
    x = rng.standard_normal((120, 100))
    y = x[:, :3] @ rng.standard_normal((3, 4)) + 0.3 * rng.standard_normal((120, 4))

    best = judged(x, y, tolerance=0.02)
    assert best.keep[:3].all()
    assert best.keep.sum() < 20
    assert best.loss[1] < best.loss[0] / 3
    full = judged(x, y, tolerance=0.02, reference="full")
    assert full.loss[1] > best.loss[1] + 0.1  # far from what can be known


def test_nodes_in_another_order_are_judged_alike() -> None:
    x, y = problem(6, rows=150, nodes=15)
    order = np.random.default_rng(1).permutation(15)
    first, second = judged(x, y, tolerance=0.02), judged(x[:, order], y, tolerance=0.02)
    assert (first.keep[order] == second.keep).all()
    np.testing.assert_allclose(first.rise[order], second.rise, atol=1e-9)


def test_the_least_informative_node_is_tested_first() -> None:
    x, y, _ = redundant()
    told = Ridge(x, y).informativeness()
    order = judged(x, y).order
    assert told[10] == 0
    assert (np.diff(told[order]) >= 0).all()
