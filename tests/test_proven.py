"""Bounds of matrix-based Renyi entropy, and the order they prove, against trying all candidates."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.passes.criteria import _renyi as renyi
from onnxprune.passes.criteria._candidates import Screened
from onnxprune.passes.criteria._ordering import ordered
from onnxprune.passes.criteria._target import Target, above, square
from tests.kernels import Floats, classes, kernel, log_kernels

ORDERS = (1, 1.01, 1.3, 1.5, 1.9)
TARGETS = ("classes", "gaussian", "soft")


def told(kind: str, samples: int) -> Target:
    """Return a target: classes, a Gaussian kernel, or one of soft answers, which is neither."""
    if kind == "classes":
        return classes(samples, 4)
    rng = np.random.default_rng(11)
    if kind == "gaussian":
        return Target(log_kernels(rng.standard_normal((1, samples, 2)))[0].astype(float), samples)
    roots = np.sqrt(rng.dirichlet(np.full(4, 0.3), samples))
    return Target(np.log(above(np.minimum(roots @ roots.T, 1.0))), samples)


@pytest.mark.parametrize("alpha", [1, 1.01, 1.5, 5])
def test_a_tangent_touches_and_is_never_above(alpha: float) -> None:
    """Of tr f(K / N), f = x^a or x ln x; also at and of matrices of low rank; and is near nearby."""

    def height(gram: Floats) -> float:
        entropy = float(renyi.entropy(gram, alpha))
        return -entropy if alpha == 1 else float(np.exp((1 - alpha) * entropy))

    touched, near = kernel(7), kernel(7, width=2.1)
    for at in (touched, np.ones((40, 40)), renyi.indicator(np.arange(40) % 4)):
        constant, slope = renyi.tangent(at, alpha)
        assert constant + (slope * at).sum() == pytest.approx(height(at), abs=1e-10)
        for gram in (touched, near, kernel(8), kernel(9, width=0.5), np.eye(40), np.ones((40, 40))):
            assert constant + (slope * gram).sum() <= height(gram) + 1e-10
    constant, slope = renyi.tangent(touched, alpha)
    entropies = abs(alpha - 1) or 1.0  # what one nat of entropy is of this height, or more
    assert height(near) - constant - (slope * near).sum() < 0.02 * entropies


@pytest.mark.parametrize("alpha", ORDERS)
@pytest.mark.parametrize("kind", TARGETS)
def test_no_difference_of_entropies_is_above_its_bound(alpha: float, kind: str) -> None:
    """S(Z) - S(Y, Z), from the exact S(Y, Z) or from less; met where it touches."""
    target = told(kind, 40)
    labels = square(target.log, 40)
    grams = [kernel(seed, width=width) for seed in range(4) for width in (0.5, 2.0, 8.0)]
    for at in (kernel(20, width=0.8), kernel(21, width=1.5), np.eye(40)):
        constant, slope = renyi.added(at, labels, alpha, target.classes)
        for gram in (at, *grams, np.eye(40), np.ones((40, 40)), labels):
            joint = float(renyi.entropy(gram * labels, alpha))
            exact = float(renyi.entropy(gram, alpha)) - joint
            trace = constant + (slope * gram).sum()
            bound = float(renyi.most(trace, joint, alpha))
            assert bound >= exact - 1e-9
            assert float(renyi.most(trace, 0.9 * joint, alpha)) >= bound
            if gram is at:
                assert bound == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("alpha", ORDERS)
@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("conditioned", [False, True])
def test_bounds_prove_what_trying_all_finds(
    alpha: float, kind: str, conditioned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same order and values from a part of the entropies of whole matrices."""
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((17, 4, 64)) * np.linspace(0, 1, 17)[:, None, None]
    held = log_kernels(centres[:, np.arange(60) % 4] + rng.standard_normal((17, 60, 64)), 4.0)
    logs, target = held[:16], told(kind, 60)
    base = held[16].astype(np.float64) if conditioned else None
    taken, order, joint = Screened(logs, target, alpha, 0), [], []
    state = np.zeros(logs.shape[1]) if base is None else base
    for _ in range(16):
        best = taken.best(state)
        order.append(-best.before)
        joint.append(best.information)
        taken.close(-best.before)
        state = state + logs[-best.before]
    whole: list[float] = []
    real = renyi.entropy

    def counted(gram: Floats, order: float) -> Floats:
        whole.append(order)
        return np.asarray(real(gram, order))

    monkeypatch.setattr(renyi, "entropy", counted)

    found = ordered(logs, target, base, alpha=alpha, shortlist=0)

    assert found.order.tolist() == order
    np.testing.assert_allclose(found.joint, joint, atol=1e-10)
    candidates = 16 * 17 // 2
    assert len(whole) < (0.4 if target.classes else 1.5) * candidates


def test_maps_that_are_alike_come_as_they_are_numbered() -> None:
    """One map eight times, and one that tells nothing."""
    logs = np.repeat(log_kernels(np.random.default_rng(0).standard_normal((1, 40, 2))), 9, axis=0)
    logs[4] = 0
    first = ordered(logs, classes(40, 4), alpha=1.01, shortlist=0).order[0]
    assert first == 0
