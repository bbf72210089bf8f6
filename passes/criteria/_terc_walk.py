"""TERC: which nodes transfer information to their targets, asked of one node after the other.

Least informative first, a node goes if a predictor of the targets loses nothing without it
(Westphal et al. 2024, arXiv 2401.11512 and 2411.00147, Algorithm 2). Losses are held out and are
means over targets, so that 1 is what predicting the mean costs; the predictor is refitted as nodes go.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from onnxprune.core.contracts import Floats, Ints
from onnxprune.core.errors import needs_torch

from ._terc import Ridge, standard

Reference = Literal["best", "full", "current"]

_NULLS = 8  # shuffled copies of nodes that set what "nothing" looks like


class Predictor(Protocol):
    """Predicts targets from nodes that can be taken out.

    Attributes:
        open: bool, shape (p,): nodes still in.
    """

    open: NDArray[np.bool_]

    def informativeness(self) -> Floats:
        """Return what each node alone tells about the targets, shape (p,)."""
        ...

    def held_out(self, without: int | None = None) -> Floats:
        """Return the held-out loss of every row, shape (n,), perhaps without one more node."""
        ...

    def remove(self, node: int) -> None:
        """Take a node out for good."""
        ...


Fit = Callable[[Floats, Floats], Predictor]  # nodes (n, p) and targets (n, q)


@dataclasses.dataclass(frozen=True)
class Judged:
    """What the tests found.

    Attributes:
        keep: bool, shape (p,).
        rise: float64, shape (p,): mean held-out loss over the reference when the node was tested.
        bound: float64, shape (p,): what that rise had to exceed, tau + t sd(d) / sqrt(k).
        certainty: float64, shape (p,): how sure it is that the loss rises: mean / standard error.
        order: int64, shape (p,): the order of tests, least informative first.
        loss: mean held-out loss of all nodes, and after all tests.
    """

    keep: NDArray[np.bool_]
    rise: Floats
    bound: Floats
    certainty: Floats
    order: Ints
    loss: tuple[float, float]


def judged(
    x: Floats,
    y: Floats,
    *,
    fit: Fit = Ridge,
    pools: Ints | None = None,
    confidence: float = 0.95,
    tolerance: float = 0.0,
    reference: Reference = "best",
    nulls: int = _NULLS,
    seed: int = 0,
) -> Judged:
    """Walk the nodes, least informative first, and keep those without which the loss surely rises.

    A node stays if mean(d) - t sd(d) / sqrt(k) > tau: d are k estimates of the rise of the held-out
    loss over the reference, t the quantile of Student's distribution at the confidence (a higher one
    prunes more), tau the rise allowed, and no less than what shuffled copies of nodes reach by
    chance (mean + 2 standard errors). With many estimates every node that tells anything passes any
    test: then tau decides.

    Args:
        x: nodes, shape (n, p).
        y: targets, shape (n, q).
        fit: fits the predictor.
        pools: shape (n,), numbers from 0: rows of one number make one estimate; None: each row.
        confidence: x of the paper, in (0, 1).
        tolerance: rise of the loss that is allowed; in all, unless the reference is "current".
        reference: the loss of all nodes ("full", Algorithm 2), of those left so far ("current", the
            authors' code for features), or the least loss so far ("best"): where samples are few or
            iterations short, fewer nodes predict better than all.
        nulls: shuffled copies; 0: tau = 0.
        seed: of the copies.
    """
    predictor, count = fit(x, y), x.shape[1]
    keep, rise, certainty = predictor.open.copy(), np.zeros(count), np.zeros(count)
    bound = np.zeros(count)
    order = np.lexsort((np.arange(count), predictor.informativeness(), predictor.open))
    base = predictor.held_out()
    start = float(base.mean())
    tau = max(tolerance, _chance(x, y, fit, nulls, seed))
    for node in order:
        if not predictor.open[node]:
            continue  # constant: it tells nothing
        without = predictor.held_out(int(node))
        rises = _estimates(without - base, pools)
        rise[node] = rises.mean()
        error = float(rises.std(ddof=1) / np.sqrt(len(rises)))
        certainty[node] = (rise[node] - tau) / error if error > 0 else 0.0
        bound[node] = tau + student.ppf(confidence, len(rises) - 1) * error
        keep[node] = rise[node] > bound[node]
        if not keep[node]:
            predictor.remove(int(node))
            if reference == "current" or (reference == "best" and without.mean() < base.mean()):
                base = without
    return Judged(keep, rise, bound, certainty, order, (start, float(predictor.held_out().mean())))


def _estimates(differences: Floats, pools: Ints | None) -> Floats:
    """Return the mean of each pool."""
    if pools is None:
        return differences
    counts = np.bincount(pools)
    means = np.bincount(pools, differences)[counts > 0] / counts[counts > 0]
    return np.asarray(means, np.float64)


def _chance(x: Floats, y: Floats, fit: Fit, nulls: int, seed: int) -> float:
    """Return the rise that nodes without information reach: mean + 2 standard errors over copies."""
    if not nulls:
        return 0.0
    rng = np.random.default_rng(seed)
    picked = rng.choice(x.shape[1], nulls)
    copies = np.stack([rng.permutation(x[:, node]) for node in picked], axis=1)
    predictor = fit(np.concatenate([x, copies], axis=1), y)
    base = predictor.held_out()
    rises = [
        float((predictor.held_out(x.shape[1] + i) - base).mean())
        for i in range(nulls)
        if predictor.open[x.shape[1] + i]
    ]
    if not rises:
        return 0.0
    return float(np.mean(rises) + 2 * np.std(rises) / np.sqrt(len(rises)))


def perceptrons(seed: int, **training: int) -> Fit:
    """Return what fits the paper's networks: fields of `onnxprune.torch.predictors.Training`.

    Raises:
        OnnxPruneError: if PyTorch is not installed.
    """
    with needs_torch("mipp:estimator=mlp", "use estimator=ridge"):
        from onnxprune.torch.predictors import Perceptrons, Training
    return lambda x, y: Perceptrons(standard(x)[0], standard(y)[0], Training(**training), seed)
