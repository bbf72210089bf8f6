"""Settings that are left out follow from the others and from the samples."""

from __future__ import annotations

import pytest

from onnxprune.torch import Recipe


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.01), ("adamw", 1e-4), ("foof", 0.1)])
def test_the_rate_suits_the_optimizer(optimizer: str, rate: float) -> None:
    recipe = Recipe(optimizer=optimizer, warmup=0.1)  # type: ignore[arg-type]
    rates = [recipe.rate_at(step, 100) for step in range(100)]

    assert max(rates) == rates[10] == recipe.highest_rate == rate
    assert rates[:10] == pytest.approx([rate * (i + 1) / 10 for i in range(10)])
    assert Recipe(optimizer=optimizer, rate=0.5).highest_rate == 0.5  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("holdout", "chunks", "chunk", "aside"),
    [
        (None, 9, 1, 0), (None, 100, 1, 10), (None, 50_000, 1, 1000), (None, 50, 32, 5),
        (None, 500, 32, 31), (0.0, 100, 1, 0), (0.25, 100, 1, 25), (0.5, 50_000, 1, 25_000),
    ],
)  # fmt: skip
def test_what_is_held_out(holdout: float | None, chunks: int, chunk: int, aside: int) -> None:
    """Of samples that come in chunks: a tenth, but not far more than a thousand samples."""
    assert Recipe(holdout=holdout).aside(chunks, chunk) == aside
