"""How much worse a model became, and how sure that is: what a limit on the drop is judged by.

Accuracy and agreement are compared pair by pair: of n samples, b were right (or the same) before
and are not now, c the other way. The drop is (b - c) / n; its upper bound D is where the score test
of Tango (1998, Statistics in Medicine 17:891) no longer tells the drop from D:

    (b - c - n D) / sqrt(n (2 q + D (1 - D))) = -z ,   z = normal quantile of the confidence
    q = (sqrt(B^2 - 4 A C) - B) / 2A ,   A = 2n,  B = -b - c + (2n - b + c) D,  C = -c D (1 - D)

(with c = 0 Wilson's bound of a share). Relative output errors are ratios of sums, R = sum a / sum b
over samples with a = |y - r|^2 and b = |r|^2; the variance of R is sum (a - R b)^2 / (sum b)^2.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Literal, get_args

from scipy.optimize import brentq
from scipy.stats import norm

from ..core.errors import BudgetError, DataError, LimitError, OnnxPruneError
from .evaluate import Evaluation

Metric = Literal["accuracy", "agreement", "error"]
_SAME = 1e-5  # output error from which a model is not the same but for rounding
METRICS: tuple[Metric, ...] = get_args(Metric)


@dataclasses.dataclass(frozen=True)
class Drop:
    """What was lost.

    Attributes:
        value: share of answers, or relative output error; below 0 if it got better.
        bound: the true one is at most so much, at the confidence asked for.
        holds: whether the limit holds.
    """

    value: float
    bound: float
    holds: bool


@dataclasses.dataclass(frozen=True)
class Trial:
    """One compression that was tried.

    Attributes:
        asked: the share of the figure that might remain.
        macs, params, size: that did remain; bytes as foreseen.
        drop: what it cost.
    """

    asked: float
    macs: float
    params: float
    size: float
    drop: Drop


@dataclasses.dataclass(frozen=True)
class Search:
    """How the largest compression within a limit was found.

    Attributes:
        limit: the drop allowed.
        metric: what of.
        figure: what was to be least.
        confidence: that what is written holds the limit, if the true drop only grows with the
            compression: each trial was judged at 1 - (1 - confidence) / (trials allowed); 0.5: the
            drop as measured was judged.
        samples: that judged each trial, none of them used for anything before.
        trials: in the order they were made.
        grid: trials that trying every step of the same size would have taken.
        chosen: which of the trials was written.
    """

    limit: float
    metric: Metric
    figure: str
    confidence: float
    samples: int
    trials: tuple[Trial, ...]
    grid: int
    chosen: int


@dataclasses.dataclass(frozen=True)
class Limit:
    """The drop that a user allows.

    Attributes:
        share: of answers (or relative output error); 0: nothing but rounding may change.
        metric: what the drop is of.
        confidence: of one judgement, above 0 and below 1.
        rounding: the output error below which a model counts as unchanged.
    """

    share: float
    metric: Metric
    confidence: float
    rounding: float

    def judge(self, found: Evaluation) -> Drop:
        """Tell whether a model holds the limit, from its evaluation against the original.

        Raises:
            DataError: if the model has no such metric.
        """
        value, bound = self._measured(found)
        if self.share == 0:
            error = found.error
            return Drop(value, bound, error is not None and error <= self.rounding)
        return Drop(value, bound, bound <= self.share)

    def _measured(self, found: Evaluation) -> tuple[float, float]:
        if self.metric == "error":
            if found.error is None or not math.isfinite(found.error):
                return math.inf, math.inf
            bounds = (
                _ratio_bound(e, found.spreads[n], self.confidence) for n, e in found.errors.items()
            )
            return found.error, max(bounds)
        turned = found.right if self.metric == "accuracy" else found.same
        if turned is None:
            raise DataError(
                f"--metric {self.metric} needs an output of shape (samples, classes), and the model "
                "has none: choose --metric error"
            )
        value = (turned.lost - turned.gained) / turned.samples
        return value, bound(turned.lost, turned.gained, turned.samples, self.confidence)

    def least_samples(self) -> int:
        """Return how many samples it takes to show the limit if not one answer changes."""
        if self.share == 0 or self.metric == "error":
            return 1
        z = max(float(norm.ppf(self.confidence)), 0.0)
        return max(1, math.ceil(z * z * (1 - self.share) / self.share))


def limit_of(
    max_drop: str | float | None,
    metric: str | None,
    confidence: float,
    labels: str | None,
    reference: Path | str | None,
) -> Limit | None:
    """Return the limit on a finished model, as asked for; None: there is none.

    Raises:
        OnnxPruneError: for what makes no sense, before any work.
    """
    if max_drop is None:
        if metric is not None or confidence != 0.5:
            raise OnnxPruneError("--metric and --confidence are of use with --max-drop only")
        return None
    if reference is None:
        raise DataError("--max-drop needs a model to compare with: give --reference")
    of = metric or ("agreement" if labels is None else "accuracy")
    if of not in METRICS:
        raise OnnxPruneError(f"--metric '{of}': expected one of {', '.join(METRICS)}")
    if of == "accuracy" and labels is None:
        raise DataError("--metric accuracy needs --labels: name them, or choose agreement")
    if not 0.5 <= confidence < 1:
        raise OnnxPruneError(
            f"--confidence {confidence}: expected from 0.5 (as measured) to below 1"
        )
    return Limit(read_share(max_drop), of, confidence, _SAME)


def hold(found: Evaluation, limit: Limit) -> None:
    """Refuse a model that lost more than a limit allows.

    Raises:
        LimitError: then.
        DataError: if the model has no such metric.
    """
    drop = limit.judge(found)
    if drop.holds:
        return
    sure = f", at {limit.confidence:.0%} confidence up to {drop.bound:.2%}"
    raise LimitError(
        f"--max-drop {limit.share:.4g} is exceeded: the drop of {limit.metric} on {found.samples} "
        f"samples is {drop.value:.2%}{sure if limit.confidence > 0.5 else ''}",
        found,
    )


def bound(lost: int, gained: int, samples: int, confidence: float) -> float:
    """Return the upper bound of the drop (module docstring), at least the drop itself.

    Args:
        lost: samples that turned from right to wrong.
        gained: samples that turned from wrong to right.
        samples: all that were compared.
        confidence: above 0 and below 1; 0.5 or less gives the drop itself.
    """
    drop, z = (lost - gained) / samples, float(norm.ppf(confidence))
    if z <= 0 or drop >= 1:
        return drop
    return float(brentq(lambda d: _score(d, lost, gained, samples) + z, drop, 1 - 1e-12))


def _score(drop: float, lost: int, gained: int, n: int) -> float:
    a, b = 2 * n, -lost - gained + (2 * n - lost + gained) * drop
    c = -gained * drop * (1 - drop)
    q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * q + drop * (1 - drop))
    gap = lost - gained - n * drop
    return gap / math.sqrt(variance) if variance > 0 else 0.0


def _ratio_bound(error: float, spread: float, confidence: float) -> float:
    """Return the upper bound of a relative error, given the standard error of its square."""
    return math.sqrt(error**2 + max(float(norm.ppf(confidence)), 0.0) * spread)


def read_share(text: str | float) -> float:
    """Read the value of `--max-drop`: "1%" or 0.01.

    Raises:
        BudgetError: if it is no share from 0 to below 1.
    """
    written = str(text).strip()
    try:
        value = float(written.removesuffix("%")) / (100 if written.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise BudgetError(
            f"--max-drop {text}: expected a share from 0 to below 1, such as 1% or 0.01"
        )
    return value
