"""Matrix-based Renyi entropy and the order that CMI makes of it, against what is known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.passes.criteria import _approximations as approximations
from onnxprune.passes.criteria import _cuts as cuts
from onnxprune.passes.criteria import _renyi as renyi
from onnxprune.passes.criteria._candidates import Screened
from onnxprune.passes.criteria._ordering import Ordering, ordered
from onnxprune.passes.criteria._target import Target, above, square
from tests.kernels import Floats, classes, kernel, log_kernels

ALPHAS = (0.5, 1, 1.01, 2, 3, 5)


# -- entropies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", ALPHAS)
def test_entropies_of_known_matrices(alpha: float) -> None:
    """All samples apart: ln N. All alike: 0. k classes of equal size: ln k."""
    assert float(renyi.entropy(np.eye(12), alpha)) == pytest.approx(np.log(12), abs=1e-12)
    assert float(renyi.entropy(np.ones((12, 12)), alpha)) == pytest.approx(0, abs=1e-12)
    equal = renyi.indicator(np.arange(12) % 3)
    assert float(renyi.entropy(equal, alpha)) == pytest.approx(np.log(3), abs=1e-12)


def test_two_samples_by_hand() -> None:
    """Eigenvalues of [[1, k], [k, 1]] / 2 are (1 +- k) / 2."""
    gram = np.array([[1.0, 0.6], [0.6, 1.0]])
    for alpha in (0.5, 1.01, 2, 3):
        expected = np.log(0.8**alpha + 0.2**alpha) / (1 - alpha)
        assert float(renyi.entropy(gram, alpha)) == pytest.approx(expected, abs=1e-13)
    shannon = -0.8 * np.log(0.8) - 0.2 * np.log(0.2)
    assert float(renyi.entropy(gram, 1)) == pytest.approx(shannon, abs=1e-13)


@pytest.mark.parametrize("alpha", [2, 3])
def test_closed_forms_equal_the_spectrum(alpha: int) -> None:
    gram = kernel(0)
    spectrum = renyi.of_spectrum(np.linalg.eigvalsh(gram / len(gram)), alpha)
    assert float(renyi.entropy(gram, alpha)) == pytest.approx(float(spectrum), abs=1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_blocks_of_classes_equal_the_whole(alpha: float) -> None:
    gram, labels = kernel(1), np.random.default_rng(2).integers(0, 4, 40)
    members = [np.flatnonzero(labels == c) for c in range(4)]
    whole = renyi.entropy(gram * renyi.indicator(labels), alpha)
    blocks = renyi.entropy_in_classes(gram, members, alpha)
    assert float(blocks) == pytest.approx(float(whole), abs=1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_joint_entropy_is_at_least_each(alpha: float) -> None:
    a, b = kernel(3), kernel(4)
    joint = float(renyi.entropy(a * b, alpha))
    assert joint >= max(float(renyi.entropy(a, alpha)), float(renyi.entropy(b, alpha))) - 1e-12
    assert joint <= np.log(len(a)) + 1e-12


def test_stacks_of_matrices_are_done_at_once() -> None:
    stack = np.stack([kernel(seed) for seed in range(3)])
    for alpha in (1.01, 2, 3):
        each = [float(renyi.entropy(gram, alpha)) for gram in stack]
        np.testing.assert_allclose(renyi.entropy(stack, alpha), each, atol=1e-13)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("in_classes", [False, True])
def test_slopes_are_those_of_the_entropy(alpha: float, in_classes: bool) -> None:
    """Against a central difference along a direction that keeps the diagonal."""
    gram, step = kernel(7, width=0.8), 1e-5  # all eigenvalues well above zero
    labels = np.arange(40) % 4
    members = [np.flatnonzero(labels == c) for c in range(4)] if in_classes else []
    towards = kernel(8, width=0.8) - gram
    if in_classes:
        towards = towards * renyi.indicator(labels)

    def at(share: float) -> float:
        moved = gram + share * towards
        found = (
            renyi.entropy_in_classes(moved, members, alpha)
            if in_classes
            else renyi.entropy(moved, alpha)
        )
        return float(found)

    expected = (at(step) - at(-step)) / (2 * step)
    found = float((renyi.slope(gram, alpha, members) * towards).sum() / 40)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("alpha", [1.01, 1.5, 2, 5])
@pytest.mark.parametrize("width", [0.5, 2.0])
def test_approximations_say_how_wrong_they_are(alpha: float, width: float) -> None:
    """The bound of the low rank holds; the stochastic error is a standard one, of tenths of a nat."""
    gram = kernel(5, samples=120, width=width)
    exact = float(renyi.entropy(gram, alpha))
    found, bound = approximations.low_rank_entropy(gram, alpha, rank=30)
    assert abs(found - exact) <= bound + 1e-12
    assert bound < 0.7
    for seed in range(3):
        found, error = approximations.stochastic_entropy(gram, alpha, vectors=200, seed=seed)
        assert abs(found - exact) <= 4 * error
        assert error < 0.15


@pytest.mark.parametrize("alpha", [0.5, 1.01, 5])
def test_approximations_of_the_extremes(alpha: float) -> None:
    """All samples apart, and all alike: nothing is lost, and no array grows without bound."""
    for gram, expected in ((np.eye(60), np.log(60)), (np.ones((60, 60)), 0.0)):
        found, bound = approximations.low_rank_entropy(gram, alpha, rank=10)
        assert found == pytest.approx(expected, abs=1e-6)
        assert bound < 1e-6
        if alpha > 1:
            found, error = approximations.stochastic_entropy(gram, alpha)
            assert found == pytest.approx(expected, abs=0.02 + 3 * error)
            assert 0 <= found <= np.log(60)
            assert error < 0.05


def test_the_same_code_runs_on_torch() -> None:
    torch = pytest.importorskip("torch")
    gram = kernel(6)
    for alpha in (1.01, 2, 3):
        found = renyi.entropy(torch.from_numpy(gram), alpha)
        assert float(found) == pytest.approx(float(renyi.entropy(gram, alpha)), abs=1e-10)


@pytest.mark.parametrize("alpha", [1.01, 2])
@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("shortlist", [3, 0])
def test_the_order_is_the_same_on_torch(alpha: float, labels: bool, shortlist: int) -> None:
    """Estimates, shortlist, bounds, exact values and compaction, all on tensors."""
    torch = pytest.importorskip("torch")
    logs = log_kernels(np.random.default_rng(0).standard_normal((12, 40, 2)), 2.5)
    target = classes(40, 4) if labels else Target(logs[0].astype(np.float64), 40)
    base = logs[1].astype(np.float64)
    there = Target(torch.from_numpy(target.log), 40, target.classes)

    ours = ordered(logs, target, base, alpha=alpha, shortlist=shortlist)
    theirs = ordered(
        torch.from_numpy(logs), there, torch.from_numpy(base), alpha=alpha, shortlist=shortlist
    )

    assert ours.order.tolist() == theirs.order.tolist()
    np.testing.assert_allclose(ours.joint, theirs.joint, atol=1e-6)


def test_widths() -> None:
    assert renyi.silverman(256, 1024) == pytest.approx(4.973, abs=5e-4)
    assert renyi.silverman(256, 4) == pytest.approx(2.5, abs=1e-12)
    distances = renyi.squared_distances(np.array([[0.0], [1.0], [3.0]]))
    np.testing.assert_allclose(distances, [[0, 1, 9], [1, 0, 4], [9, 4, 0]], atol=1e-12)
    assert renyi.median_width(distances) == pytest.approx(np.sqrt(2))
    assert renyi.neighbour_width(distances, 1) == pytest.approx(np.sqrt(2))


# -- the order --------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.01, 2])
@pytest.mark.parametrize("conditioned", [False, True])
def test_the_curve_is_the_conditional_information_of_the_rest(
    alpha: float, conditioned: bool
) -> None:
    """CMI(S) = I(Y; B, F) - I(Y; B, S), against S(Y,Z) + S(R,Z) - S(Y,R,Z) - S(Z) with Z = B, S."""
    rng = np.random.default_rng(0)
    logs = log_kernels(rng.standard_normal((7, 40, 2)), 2.0)
    target = classes(40, 4)
    base = log_kernels(rng.standard_normal((1, 40, 2)))[0] if conditioned else None

    found = ordered(logs, target, base, alpha=alpha)

    label, exact = square(target.log, 40), logs.astype(np.float64)
    before = np.zeros(exact.shape[1]) if base is None else base.astype(np.float64)
    for step in range(6):
        given = square(before + exact[found.order[: step + 1]].sum(axis=0), 40)
        rest = square(exact[found.order[step + 1 :]].sum(axis=0), 40)
        terms = [label * given, rest * given, label * rest * given, given]
        a, b, c, d = (float(renyi.entropy(term, alpha)) for term in terms)
        assert found.cmi[step] == pytest.approx(a + b - c - d, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_shortlist_finds_what_all_candidates_would(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.arange(60) % 4
    centres = rng.standard_normal((12, 4, 2)) * np.linspace(0, 1, 12)[:, None, None]
    logs = log_kernels(centres[:, labels] + rng.standard_normal((12, 60, 2)), np.sqrt(12))
    exact = ordered(logs, classes(60, 4), shortlist=0)
    assert ordered(logs, classes(60, 4)).order.tolist() == exact.order.tolist()
    few = ordered(logs, classes(60, 4), shortlist=4)
    np.testing.assert_allclose(few.joint, exact.joint, atol=1e-3)


@pytest.mark.parametrize("labels", [True, False])
def test_estimates_of_information_are_right_to_first_order(labels: bool) -> None:
    """Candidates that differ little: differences of estimates are those of the information."""
    rng = np.random.default_rng(9)
    common = rng.standard_normal((40, 3))
    logs = log_kernels(common + 0.02 * rng.standard_normal((8, 40, 3)), 2.0)
    target = classes(40, 4) if labels else Target(log_kernels(common[None, :, :1])[0], 40)
    state = 0.5 * logs[0].astype(np.float64)
    exact = np.array([float(target.information(state + log, 1.01)[0]) for log in logs])

    found = Screened(logs, target, 1.01, 8).estimates(state)

    np.testing.assert_allclose(found - found.mean(), exact - exact.mean(), atol=1e-3)
    assert np.corrcoef(found, exact)[0, 1] > 0.99


def test_channels_in_another_order_are_ordered_alike() -> None:
    rng = np.random.default_rng(2)
    logs = log_kernels(rng.standard_normal((9, 40, 2)), 3.0)
    order = rng.permutation(9)
    first, second = ordered(logs, classes(40, 4)), ordered(logs[order], classes(40, 4))
    assert first.order.tolist() == order[second.order].tolist()


def planted(samples: int = 200) -> tuple[Floats, Target]:
    """Six informative maps, six of noise with three times the spread, three copies of the first."""
    rng = np.random.default_rng(3)
    target = classes(samples, 10)
    labels = np.arange(samples) % 10
    centres = rng.standard_normal((6, 10, 8)) * 2
    informative = centres[:, labels] + rng.standard_normal((6, samples, 8)) * 0.5
    noise = rng.standard_normal((6, samples, 8)) * 6
    copies = informative[[0] * 3] + rng.standard_normal((3, samples, 8)) * 1e-3
    return np.concatenate([informative, noise, copies]), target


@pytest.mark.parametrize("alpha", [1.01, 2])
def test_noise_and_copies_come_after_what_informs(alpha: float) -> None:
    variables, target = planted()
    logs = log_kernels(variables, np.sqrt(len(variables)))

    found = ordered(logs, target, alpha=alpha)

    assert set(found.order[-6:].tolist()) == set(range(6, 12))
    assert found.filled[-1] < 0.98
    if alpha == 1.01:
        unique = {0 if c >= 12 else int(c) for c in found.order[:6]}
        assert unique == set(range(6))


def test_kernels_of_the_paper_fall_for_noise_and_say_so() -> None:
    """Fixed width, maps as they are: the loudest noise comes first, and the kernels are full."""
    variables, target = planted()
    distances = renyi.squared_distances(variables)
    logs = (-above(distances) / (2 * renyi.silverman(200, 8) ** 2)).astype(np.float32)

    found = ordered(logs, target, alpha=1.01)

    assert set(found.order[:3].tolist()) & set(range(6, 12))
    assert found.filled[5] > 0.98


# -- cuts -------------------------------------------------------------------------------------------


def test_quotients_of_differences_by_hand() -> None:
    curve = np.array([10.0, 8.0, 4.0, 3.0, 3.0, 1.0])
    np.testing.assert_allclose(cuts.qda(curve), [-1, 0.5, 4, 0, 0, -1])
    assert cuts.scree(curve, "paper") == [2, 1]


def knee(noise: float = 0.0) -> Floats:
    i = np.arange(511)
    curve = np.where(i < 200, 1 - i / 205, (1 - 200 / 205) * (1 - (i - 200) / 400))
    return curve + noise * np.random.default_rng(0).standard_normal(511)


@pytest.mark.parametrize("noise", [0.0, 1e-5, 1e-4])
def test_a_knee_is_found_in_noise(noise: float) -> None:
    assert abs(cuts.scree(knee(noise))[0] - 200) <= 10


def test_the_literal_scree_test_follows_noise() -> None:
    assert cuts.scree(knee(), "paper")[0] == 200
    assert abs(cuts.scree(knee(1e-4), "paper")[0] - 200) > 20


@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_a_flat_curve_has_no_cut(noise: float) -> None:
    curve = 1 + noise * np.random.default_rng(0).standard_normal(200)
    assert cuts.scree(curve) == []
    if noise == 0:
        assert cuts.x_means(curve) == []


def test_x_means_finds_levels_and_the_literal_one_cuts_the_index() -> None:
    rng = np.random.default_rng(0)
    curve = np.repeat([1.0, 0.6, 0.2], [30, 50, 120]) + 1e-3 * rng.standard_normal(200)
    assert cuts.x_means(curve) == [30, 80]
    even = np.diff([0, *cuts.x_means(np.ones(511), "indices"), 511])
    assert len(even) > 10
    assert even.max() < 1.5 * even.min()


def test_the_information_criterion_by_hand() -> None:
    """Two clusters of two on a line, centres 1 and 11: s2 = 4 / (4 - 2), p = 1 + 2 + 1."""
    points, labels = np.array([[0.0], [2.0], [10.0], [12.0]]), np.array([0, 0, 1, 1])
    each = 2 * np.log(2) - 2 * np.log(4) - np.log(2 * np.pi) - np.log(2) - 0
    assert cuts.bic(points, labels) == pytest.approx(2 * each - 2 * np.log(4), abs=1e-12)


def test_permutations_stop_where_nothing_more_is_told() -> None:
    rng = np.random.default_rng(4)
    labels = np.arange(60) % 3
    centres = rng.standard_normal((2, 3, 2)) * 3
    telling = centres[:, labels] + rng.standard_normal((2, 60, 2)) * 0.3
    logs = log_kernels(np.concatenate([telling, rng.standard_normal((4, 60, 2))]), 2.0)
    target = classes(60, 3)
    found: Ordering = ordered(logs, target, alpha=2)

    (kept,) = cuts.permutation(logs, found, target, None, alpha=2, permutations=40)

    assert set(found.order[:2].tolist()) == {0, 1}
    assert 1 <= kept <= 4
