"""What interleaved times say: how many times as fast, and how sure that is.

Rounds of one life share the luck of one loading, so they are no independent draws: each life gives one
number, the median over its rounds of ln(time of the first model / time of this one), and the interval
is Student's over lives. It covers the truth as often as it says, whatever the noise within lives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Verdict = Literal["faster", "slower", "no difference"]


@dataclasses.dataclass(frozen=True)
class Timed:
    """One model in one cell, against the first model of the cell.

    Attributes:
        median, low, high: of all its runs: median and quartiles, milliseconds.
        ratio: how many times as fast as the first model; 1 for the first itself.
        between: where that ratio lies, at the confidence asked for.
        verdict: what can be said of it; "no difference" where the interval holds 1.
        runs: how many were counted.
    """

    median: float
    low: float
    high: float
    ratio: float
    between: tuple[float, float]
    verdict: Verdict
    runs: int


def judged(lives: Sequence[Floats], confidence: float) -> list[Timed]:
    """Judge the times of all models of a cell.

    Args:
        lives: milliseconds, each of shape (rounds, models).
        confidence: of the intervals, below 1.
    """
    pooled = np.concatenate(lives)
    quartiles = np.percentile(pooled, [25, 50, 75], axis=0)
    each = np.array([np.median(np.log(life[:, :1] / life), axis=0) for life in lives])
    centre = each.mean(axis=0)
    reach = _reach(each, confidence)
    return [
        Timed(
            median=float(quartiles[1, n]),
            low=float(quartiles[0, n]),
            high=float(quartiles[2, n]),
            ratio=float(np.exp(centre[n])),
            between=(float(np.exp(centre[n] - reach[n])), float(np.exp(centre[n] + reach[n]))),
            verdict=_verdict(centre[n], reach[n]),
            runs=len(pooled),
        )
        for n in range(pooled.shape[1])
    ]


def _reach(each: Floats, confidence: float) -> Floats:
    """Return half the width of Student's interval of the mean over lives: (lives, models) -> (models,)."""
    lives = len(each)
    if lives < 2:
        return np.full(each.shape[1], np.inf)
    quantile = stats.t.ppf(0.5 + confidence / 2, lives - 1)
    reach: Floats = quantile * each.std(axis=0, ddof=1) / np.sqrt(lives)
    return reach


def _verdict(centre: float, reach: float) -> Verdict:
    if abs(centre) <= reach:
        return "no difference"
    return "faster" if centre > 0 else "slower"
