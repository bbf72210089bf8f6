"""Latency of two models, measured in turns, so that a busy machine slows both down alike.

One number per model would compare two moments of the machine. Here the models alternate, first one
then the other in front, and the speed-up is the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from ..core.contracts import Batch, Progress, silent
from ..core.runtime import Session

_WARM_UP = 2  # runs of each model that are not counted: allocation, first touch of the weights
_LEAST_ROUNDS, _MOST_ROUNDS = 5, 2000
_PATIENCE = 3  # times the time allowed, for the least rounds


@dataclasses.dataclass(frozen=True)
class Timing:
    """One model's latency.

    Attributes:
        median: milliseconds per run.
        low, high: first and third quartile, milliseconds.
    """

    median: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Latency:
    """Two models timed in turns.

    Attributes:
        before, after: of the original and of the pruned model.
        speedup: median over rounds of before / after; above 1 the pruned model is faster.
        rounds: runs of each model that were counted.
        provider: onnxruntime execution provider that really ran.
        inputs: shape of every input of a run.
        widened: whether bfloat16 ran as float32.
    """

    before: Timing
    after: Timing
    speedup: float
    rounds: int
    provider: str
    inputs: dict[str, tuple[int, ...]]
    widened: bool = False


def compare(
    before: Session,
    after: Session,
    feeds: Batch,
    *,
    feeds_after: Batch | None = None,
    seconds: float = 2.0,
    progress: Progress = silent,
) -> Latency:
    """Time two loaded models in turns on the same inputs.

    Args:
        before: the original.
        after: the pruned model.
        feeds: inputs of one run.
        feeds_after: what the pruned model is fed instead, where it counts its inputs anew.
        seconds: how long to measure; at least five rounds are run, unless that takes three times
            as long, and at least one whatever it takes.
        progress: called after each round.

    Raises:
        ModelError: if a model does not run on these inputs.
    """
    fed = feeds if feeds_after is None else feeds_after
    for _ in range(_WARM_UP):
        _timed(before, feeds)
        _timed(after, fed)
    times: list[tuple[float, float]] = []
    start = time.perf_counter()
    while _goes_on(len(times), time.perf_counter() - start, seconds):
        if len(times) % 2:
            second = _timed(after, fed)
            times.append((_timed(before, feeds), second))
        else:
            first = _timed(before, feeds)
            times.append((first, _timed(after, fed)))
        progress("latency", len(times), 0)
    each = np.array(times) * 1e3
    return Latency(
        before=_timing(each[:, 0]),
        after=_timing(each[:, 1]),
        speedup=float(np.median(each[:, 0] / each[:, 1])),
        rounds=len(times),
        provider=after.provider,
        inputs={name: np.shape(array) for name, array in feeds.items()},
        widened=before.widened,
    )


def _goes_on(rounds: int, spent: float, seconds: float) -> bool:
    """Tell whether one more round is due after `rounds`, which took `spent` of the `seconds` allowed."""
    if rounds < _LEAST_ROUNDS:
        return not rounds or spent < _PATIENCE * seconds
    return rounds < _MOST_ROUNDS and spent < seconds


def _timed(session: Session, feeds: Batch) -> float:
    """Return the seconds of one run."""
    start = time.perf_counter()
    session.run(feeds)
    return time.perf_counter() - start


def _timing(each: np.ndarray) -> Timing:
    low, median, high = np.percentile(each, [25, 50, 75])
    return Timing(float(median), float(low), float(high))
