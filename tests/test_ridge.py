"""The ridge of a refit: chosen per output by how a fit to one half of the rows errs on the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxprune.passes.surgery._refit import RIDGE, Floats, Normal, chosen_ridge

WIDTH, OUTPUTS = 24, 4
Rows = NDArray[np.float32]


def halves(
    rng: np.random.Generator, truth: Floats, count: int, noise: float
) -> tuple[Normal, Normal]:
    """Return equations of two halves of `count` rows of y = truth x + noise."""
    found = Normal.empty(1, *truth.shape), Normal.empty(1, *truth.shape)
    for half in found:
        x, y = rows(rng, truth, count // 2, noise)
        half.add(x[None], y[None])
    return found


def rows(rng: np.random.Generator, truth: Floats, count: int, noise: float) -> tuple[Rows, Rows]:
    """Draw rows."""
    x = rng.standard_normal((count, truth.shape[1])) + 3.0
    y = x @ truth.T + noise * rng.standard_normal((count, len(truth)))
    return x.astype(np.float32), y.astype(np.float32)


def unseen_error(seed: int, count: int, noise: float, *, choose: bool) -> float:
    """Return the mean squared error on rows that no fit has seen, of a refit of nearby weights."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((OUTPUTS, WIDTH))
    old = (truth + 0.3 * rng.standard_normal(truth.shape))[None]
    first, second = halves(rng, truth, count, noise)
    ridge = chosen_ridge(first, second, old) if choose else np.full((1, OUTPUTS), RIDGE)
    first += second
    weight, bias = first.solve(old, ridge)
    x, y = rows(rng, truth, 4000, noise)
    return float(((x @ weight[0].T + bias[0] - y) ** 2).mean())


def test_few_rows_are_not_believed() -> None:
    fixed = np.mean([unseen_error(seed, 32, 2.0, choose=False) for seed in range(8)])
    chosen = np.mean([unseen_error(seed, 32, 2.0, choose=True) for seed in range(8)])

    assert chosen < 0.6 * fixed
    # the old weights themselves err by noise^2 + width * 0.3^2 = 6.2
    assert chosen < 6.2


def test_many_rows_are_believed() -> None:
    fixed = np.mean([unseen_error(seed, 4000, 0.5, choose=False) for seed in range(4)])
    chosen = np.mean([unseen_error(seed, 4000, 0.5, choose=True) for seed in range(4)])

    assert chosen < 1.001 * fixed


def test_each_output_has_its_own() -> None:
    """One output is explained by what is read, one is noise: only the first may follow its rows."""
    rng = np.random.default_rng(5)
    truth = rng.standard_normal((2, WIDTH))
    old = truth.copy()
    old[0] += 1.0
    equations = Normal.empty(1, 2, WIDTH), Normal.empty(1, 2, WIDTH)
    for half in equations:
        x, y = rows(rng, truth, 60, 0.0)
        y[:, 1] += 5 * rng.standard_normal(60).astype(np.float32)
        half.add(x[None], y[None])

    ((explained, noisy),) = chosen_ridge(*equations, old[None])

    assert explained < RIDGE < noisy


def test_one_half_tells_nothing() -> None:
    rng = np.random.default_rng(6)
    truth = rng.standard_normal((2, WIDTH))
    first, _ = halves(rng, truth, 60, 0.1)

    assert (chosen_ridge(first, Normal.empty(1, 2, WIDTH), truth[None]) == RIDGE).all()
