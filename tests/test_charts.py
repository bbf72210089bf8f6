"""Charts: their scales, and that they stay inside at any length."""

from __future__ import annotations

import re

import numpy as np
import pytest

from onnxprune.show.charts import Cut, Scale, falling, is_wide, stems


def test_scales() -> None:
    linear = Scale.of(np.array([2.0, 8.0]))
    decades = Scale.of(np.array([0.0, 3e-9, 0.02, 0.7]), logarithmic=True)

    assert linear.shares(np.array([0.0, 4.0, 8.0])).tolist() == [0, 0.5, 1]
    assert (decades.low, decades.high) == pytest.approx((1e-5, 1.0), rel=1e-12)
    found = decades.shares(np.array([-1.0, 0.0, 1e-5, 1e-2, 1.0]))
    assert found.tolist() == pytest.approx([0, 0, 0, 0.6, 1], abs=1e-12)
    assert Scale.of(np.zeros(3)).shares(np.zeros(3)).tolist() == [0, 0, 0]
    assert Scale.of(np.zeros(3), logarithmic=True).shares(np.zeros(3)).tolist() == [0, 0, 0]
    assert is_wide(np.array([0.01, 0.02, 1.0]))
    assert not is_wide(np.array([-0.01, 0.0, 1.0]))
    assert not is_wide(np.zeros(3))


@pytest.mark.parametrize("count", [1, 2, 160, 161, 5000])
def test_charts_of_any_length_stay_inside(count: int, rng: np.random.Generator) -> None:
    values = np.sort(rng.standard_normal(count))[::-1].tolist()
    drawn = [
        falling(values, "v", (Cut(count, "kept"),)),
        falling(values, "v", (Cut(min(1, count), "kept"),)),
        stems(values, values, [True] * count, "v"),
    ]

    for chart in drawn:
        assert len(chart) < 12_000
        numbers = [
            float(n) for d in re.findall(r' d="(.*?)"', chart) for n in re.findall(r"[\d.]+", d)
        ]
        assert min(numbers) >= 0
        assert max(numbers) <= 300
        assert "nan" not in chart
