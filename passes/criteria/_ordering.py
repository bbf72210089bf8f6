"""Greedy order of variables by joint information with a target (CMI paper, Algorithm 1).

A variable c is kept as the logarithm of its Gaussian kernel above the diagonal, L_c, float32, shape
(T,), T = N (N - 1) / 2; the kernel of a set is exp(sum of L_c). Step i takes

    j* = argmax_j I(Y; B, S, j)        and notes        CMI_i = I(Y; R | B, S).

S and R together are always the whole layer F, so CMI_i = I(Y; B, F) - I(Y; B, S): the curve costs
nothing beyond the order. At alpha = 2 all candidates of a step are two columns of one matrix product.
At other alphas one such product ranks them, to first order about the mean of all candidates, and the
best `shortlist` are compared with exact eigenvalues; or bounds prove which one wins (`_proven`).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from array_api_compat import array_namespace, device

from onnxprune.core.contracts import Floats

from ._candidates import Candidates, Screened
from ._proven import Proven
from ._target import Ints, Target, Xp, exact


@dataclasses.dataclass(frozen=True)
class Ordering:
    """Variables from most to least informative.

    Attributes:
        order: int64, shape (C,).
        joint: float64, shape (C,): I(Y; B, S) after each step, in nats.
        filled: float64, shape (C,): S(B, S) / ln N after each step; near 1 the kernel tells all
            samples apart and nothing that follows is informative.
        error: float64, shape (C,): of `joint`, in nats; zero where entropies are exact.
    """

    order: Ints
    joint: Floats
    filled: Floats
    error: Floats

    @property
    def cmi(self) -> Floats:
        """I(Y; R | B, S) after each step, in nats; the last is zero."""
        missing: Floats = self.joint[-1] - self.joint
        return missing


def ordered(
    logs: Xp, target: Target, base: Xp | None = None, *, alpha: float = 1.01, shortlist: int = 8
) -> Ordering:
    """Order variables by joint information with the target.

    Args:
        logs: log kernels, shape (C, T).
        target: the variable Y.
        base: log kernel of the conditioning set B, shape (T,); None: the empty set.
        alpha: order of the entropy.
        shortlist: candidates per step, best to first order, that are compared exactly; 0: the best of
            all, exactly.
    """
    xp = array_namespace(logs)
    state = xp.zeros(logs.shape[-1], dtype=xp.float64, device=device(logs))
    state = state if base is None else state + base
    candidates: Candidates = Screened(logs, target, alpha, shortlist)
    if shortlist == 0 and 1 <= alpha < 2 and target.estimate is exact:
        candidates = Proven(logs, target, alpha)
    steps = []
    for _ in range(logs.shape[0]):
        found = candidates.best(state)
        chosen = -found.before
        state = state + xp.astype(logs[chosen], xp.float64)
        candidates.close(chosen)
        steps.append((chosen, found.information, found.own / np.log(target.samples), found.error))
    order, *curves = zip(*steps, strict=True)
    return Ordering(np.array(order, np.int64), *map(np.array, curves))
