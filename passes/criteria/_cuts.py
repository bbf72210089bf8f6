"""Where to cut an ordering: the Scree test, X-means and the permutation test of the CMI paper.

All return numbers of variables to keep, most promising first. The curve is c_i, the conditional
information that remains after i + 1 variables were taken, for all but the last: shape (C - 1,).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.optimize import isotonic_regression

from onnxprune.core.contracts import Floats

from ._ordering import Ordering
from ._target import Target, Xp

Mode = Literal["robust", "paper"]
Over = Literal["values", "indices"]

_CANDIDATES = 3  # of the Scree test
_SPAN = 0.02  # of the curve's length, over which the robust reading takes differences
_LEAST_RANGE = 0.01  # of the curve's height: what falls by less is flat
_STEEP = 1.0  # times the mean slope: a knee comes after at least this
_LEVEL = 0.01  # times the mean slope: what falls by less than this counts as this
_MOST_CLUSTERS = 20
_SEED = 42


def scree(curve: Floats, mode: Mode = "robust") -> list[int]:
    """Cut where the quotient of successive differences is largest (QDA; Niesing 1997).

        QDA_i = (c_{i-w} - c_i) / (c_i - c_{i+w}),   w = 1;   0 where c_i = c_{i+1}

    So near zero slopes noise decides: 1e-6 of the curve moves the cut by a tenth of the channels. The
    robust reading makes the curve fall (isotonic regression), takes w = 2 % of its length, counts
    slopes below a hundredth of the mean as that, looks for knees only after slopes above the mean,
    takes one of neighbouring candidates, and finds none in a curve that falls by less than 1 %.

    Returns:
        i for up to three of the largest QDA_i: the first i variables are kept.
    """
    if mode == "paper":
        quotients = qda(curve)
        span = 1
    else:
        span = max(1, round(_SPAN * len(curve)))
        quotients = _steady_qda(curve, span)
    found: list[int] = []
    for i in np.argsort(-quotients, kind="stable"):
        apart = mode == "paper" or all(abs(int(i) - other) > span for other in found)
        if quotients[i] > 0 and apart:
            found.append(int(i))
    return found[:_CANDIDATES]


def _steady_qda(curve: Floats, span: int) -> Floats:
    """Return quotients of differences over `span`, of the curve made to fall; 0 where there is no knee."""
    result = np.zeros(len(curve))
    if len(curve) <= 2 * span:
        return result
    falling = isotonic_regression(curve, increasing=False).x
    height = float(falling[0] - falling[-1])
    if not height > _LEAST_RANGE * float(np.abs(curve).max()):
        return result
    mean = height / (len(curve) - 1) * span
    drops = falling[:-span] - falling[span:]
    before, after = drops[:-span], drops[span:]
    steep = before >= _STEEP * mean
    result[span:-span] = np.where(steep, before / np.maximum(after, _LEVEL * mean), 0.0)
    return result


def qda(curve: Floats) -> Floats:
    """Return the quotients of successive differences, shape as the curve; -1 at both ends."""
    drops = curve[:-1] - curve[1:]
    result = np.full(len(curve), -1.0)
    if len(curve) > 2:
        flat = drops[1:] == 0
        result[1:-1] = np.where(flat, 0.0, drops[:-1] / np.where(flat, 1.0, drops[1:]))
    return result


def x_means(curve: Floats, over: Over = "values") -> list[int]:
    """Cut where clusters begin (Pelleg, Moore 2000), split while the BIC rises.

    "indices" clusters the points (i, c_i) as they are, as the paper's code does: the index dwarfs the
    information, and the cuts cut the index in equal parts. "values" clusters c_i / max c alone: a flat
    curve is one cluster.

    Returns:
        first indices of all clusters but the first, ascending.
    """
    if len(curve) < 2 or not np.abs(curve).max() > 0:
        return []
    if over == "indices":
        points = np.stack([np.arange(len(curve)), curve], axis=1)
        labels = _two(points)  # the released code starts with two centres
    else:
        points = (curve / np.abs(curve).max())[:, None]
        labels = np.zeros(len(points), np.int64)
    while (split := _split_once(points, labels)) is not None:
        labels = split
    firsts = sorted(int(np.flatnonzero(labels == cluster)[0]) for cluster in np.unique(labels))
    return firsts[1:]


def _split_once(points: Floats, labels: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Split every cluster whose BIC rises by it, then run k-means on all; None if none was split."""
    found, count = labels.copy(), len(np.unique(labels))
    for cluster in np.unique(labels):
        inside = np.flatnonzero(labels == cluster)
        if len(inside) < 4 or count == _MOST_CLUSTERS:
            continue
        halves = _two(points[inside])
        if len(np.unique(halves)) == 2 and bic(points[inside], halves) > bic(
            points[inside], np.zeros(len(inside), np.int64)
        ):
            found[inside[halves == 1]] = found.max() + 1
            count += 1
    if count == len(np.unique(labels)):
        return None
    centres = np.stack([points[found == cluster].mean(axis=0) for cluster in np.unique(found)])
    return _numbers(kmeans2(points, centres, minit="matrix", missing="warn", seed=_SEED))


def _two(points: Floats) -> NDArray[np.int64]:
    """Divide points in two by k-means."""
    if len(np.unique(points, axis=0)) < 2:
        return np.zeros(len(points), np.int64)
    return _numbers(kmeans2(points, 2, minit="++", seed=_SEED))


def _numbers(found: tuple[Floats, NDArray[np.int32]]) -> NDArray[np.int64]:
    """Return the cluster of each point, from what k-means returns."""
    return found[1].astype(np.int64)


def bic(points: Floats, labels: NDArray[np.int64]) -> float:
    """Return the Bayesian information criterion of a clustering, higher is better.

        sum_k [ n_k ln n_k - n_k ln N - n_k/2 ln 2 pi - n_k M/2 ln s2 - (n_k - K)/2 ] - p/2 ln N

    with s2 the sum of squared distances to the centres over N - K, p = (K - 1) + M K + 1.

    Args:
        points: shape (N, M).
        labels: cluster of each point.
    """
    total, dimension = points.shape
    clusters = [points[labels == label] for label in np.unique(labels)]
    count = len(clusters)
    squares = sum(float(((c - c.mean(axis=0)) ** 2).sum()) for c in clusters)
    variance = max(squares / max(total - count, 1), 1e-300)
    parameters = (count - 1) + dimension * count + 1
    score = 0.0
    for cluster in clusters:
        n = len(cluster)
        score += n * np.log(n) - n * np.log(total) - n / 2 * np.log(2 * np.pi)
        score += -n * dimension / 2 * np.log(variance) - (n - count) / 2
    return float(score - parameters / 2 * np.log(total))


def permutation(
    logs: Xp,
    ordering: Ordering,
    target: Target,
    base: Floats | None,
    *,
    alpha: float,
    permutations: int = 100,
    level: float = 0.05,
    seed: int = 0,
) -> list[int]:
    """Stop where the newest variable tells no more than a shuffled copy (Yu, Principe 2019).

    After each step the newest variable is permuted over samples and CMI = I(Y; R | B, S) computed
    anew; p is the share of permutations with CMI no higher than the real one. Kernels are permuted,
    not computed again.

    Returns:
        the number of variables up to the first with p >= `level`, itself included.
    """
    everything = np.asarray(logs, np.float64).sum(axis=0)
    before = np.zeros_like(everything) if base is None else np.asarray(base, np.float64)
    rng = np.random.default_rng(seed)
    taken = np.zeros_like(everything)
    for step, chosen in enumerate(ordering.order[:-1]):
        newest = np.asarray(logs[int(chosen)], np.float64)
        rest = everything - taken - newest
        beaten = 0
        for _ in range(permutations):
            shuffled = before + taken + _shuffled(newest, target.samples, rng)
            given = target.information(shuffled, alpha)[0]
            beaten += bool(
                target.information(shuffled + rest, alpha)[0] - given <= ordering.cmi[step]
            )
        taken += newest
        if beaten / permutations >= level:
            return [step + 1]
    return [len(ordering.order)]


def _shuffled(log: Floats, samples: int, rng: np.random.Generator) -> Floats:
    """Permute the samples of a kernel kept above the diagonal."""
    rows, columns = np.triu_indices(samples, 1)
    matrix = np.zeros((samples, samples))
    matrix[rows, columns] = matrix[columns, rows] = log
    order = rng.permutation(samples)
    permuted: Floats = matrix[order][:, order][rows, columns]
    return permuted
