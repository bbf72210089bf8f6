"""Ridge-TERC: which nodes transfer information to their targets, in closed form.

TERC (Westphal et al. 2024) asks of one node after the other, least informative first, whether a
predictor of the targets loses anything without it. Here the predictor is ridge regression, which is
refitted exactly as nodes go. With columns centred and scaled, A = X^T X + l I, Q = A^-1, W = Q X^T Y:

    removing j    W <- W - Q_:j W_j / Q_jj,    Q <- Q - Q_:j Q_:j^T / Q_jj
                  R <- R + u_j W_j / Q_jj,     h <- h - u_j^2 / Q_jj,     u_j = X Q_:j
    loss rise     |W_j|^2 / Q_jj                (penalised loss, after the refit)
    held out      |R_i|^2 / (1 - h_i)^2         (leave-one-out loss of sample i: no second fit)

R = Y - X W are residuals, h the leverages. The loss of a sample is the mean over targets, so that 1
is what predicting the mean costs. Of R only |R_i|^2 is kept: a removal moves it by

    u_ij (2 v_ij + u_ij |W_j|^2 / Q_jj) / Q_jj,      v_j = R W_j^T

and u and v of the nodes asked for next come from one product of matrices, then follow removals:

    u_k <- u_k - c u_j,    v_k <- v_k - c v_j + u_j (W_j W_k^T - c |W_j|^2) / Q_jj,    c = Q_jk / Q_jj
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from onnxprune.core.contracts import Floats

Ints = NDArray[np.int64]
_REFRESH = 64  # removals between exact inverses
_AHEAD = 32  # nodes whose effect on samples is computed together
_GROWN = 1e6  # or when the smallest pivot has shrunk by as much


def schedule(steps: int = 20) -> Floats:
    """Return the confidence values of the MIPP paper, x_n = 1 - 0.5^(n + 1): 0.5, 0.75, 0.875, ..."""
    return np.asarray(1 - 0.5 ** np.arange(1, steps + 1), np.float64)


class Ridge:
    """A ridge regression that nodes can be taken out of.

    Attributes:
        open: bool, shape (p,): nodes still in.
        weights: float64, shape (p, q); rows of removed nodes are zero.
    """

    def __init__(
        self, x: Floats, y: Floats, damping: float = 1e-3, *, by_sample: bool = True
    ) -> None:
        """Fit.

        Args:
            x: nodes, shape (n, p); constant columns are out from the start.
            y: targets, shape (n, q); constant ones are left out.
            damping: l as a share of the mean of the diagonal of X^T X.
            by_sample: whether losses of samples are asked for; without, a removal costs p (p + q).
        """
        self.by_sample = by_sample
        self.x, spread = standard(x)
        targets, varies = standard(y)
        self.y = targets[:, varies > 0]
        self.open = spread > 0
        self.damping = damping * len(x)
        self.gram: Floats = self.x.T @ self.x
        self.cross: Floats = self.x.T @ self.y
        self.sequence = np.argsort(self.informativeness(), kind="stable")
        self._fit()

    def _fit(self) -> None:
        """Solve for the open nodes from scratch."""
        p, inside = self.x.shape[1], np.flatnonzero(self.open)
        square = np.ix_(inside, inside)
        system = self.gram[square]
        system[np.diag_indices(len(inside))] += self.damping
        self.inverse = np.zeros((p, p))
        if len(inside):
            self.inverse[square] = cho_solve(cho_factor(system), np.eye(len(inside)))
        self.weights = self.inverse @ self.cross
        if self.by_sample:
            x = self.x[:, inside]
            residual = self.y - x @ self.weights[inside]
            self.squares = np.einsum("ij,ij->i", residual, residual)
            self.leverage = np.einsum("ij,ij->i", x @ self.inverse[square], x)
        self.ahead: dict[int, int] = {}  # node -> its row of u and v
        self.least, self.since = float(self._pivots().min(initial=np.inf)), 0

    def _look(self, node: int) -> tuple[Floats, Floats]:
        """Return u and v of a node, shape (n,); with it those of the nodes that TERC tests next."""
        if node not in self.ahead:
            later = self.sequence[int(np.flatnonzero(self.sequence == node)[0]) :]
            nodes = later[self.open[later]][:_AHEAD]
            w = self.weights[nodes]
            both = np.concatenate([self.inverse[nodes], w @ self.weights.T]) @ self.x.T
            self.u, self.v = both[: len(nodes)], w @ self.y.T - both[len(nodes) :]
            self.ahead = {int(n): row for row, n in enumerate(nodes)}
        return self.u[self.ahead[node]], self.v[self.ahead[node]]

    def _without(self, node: int) -> tuple[Floats, Floats]:
        """Return |R_i|^2 and h_i of all samples, shape (n,), were a node out."""
        u, v = self._look(node)
        pivot, w = float(self.inverse[node, node]), self.weights[node]
        squares = self.squares + u * (2 * v + u * (float(w @ w) / pivot)) / pivot
        return squares, self.leverage - u * u / pivot

    def _pivots(self) -> Floats:
        pivots: Floats = np.diag(self.inverse)[self.open]
        return pivots

    def informativeness(self) -> Floats:
        """Return what each node alone tells about the targets: mean squared correlation, shape (p,)."""
        told: Floats = ((self.cross / len(self.x)) ** 2).mean(axis=1)
        return told

    def rises(self) -> Floats:
        """Return the rise of the penalised loss without each node, per sample and target; inf when out."""
        result = np.full(len(self.open), np.inf)
        squares = (self.weights[self.open] ** 2).sum(axis=1)
        result[self.open] = squares / self._pivots() / max(self.y.size, 1)
        return result

    def held_out(self, without: int | None = None) -> Floats:
        """Return the leave-one-out loss of every sample, shape (n,), perhaps without one more node."""
        squares, leverage = self.squares, self.leverage
        if without is not None:
            squares, leverage = self._without(without)
        losses = squares / (1 - np.clip(leverage, 0, 1 - 1e-9)) ** 2
        return np.asarray(losses / max(self.y.shape[1], 1), np.float64)

    def remove(self, node: int) -> None:
        """Take a node out for good."""
        column, w = self.inverse[:, node].copy(), self.weights[node].copy()
        pivot = float(column[node])
        if self.by_sample:
            self.squares, self.leverage = self._without(node)
            self._follow(node)
        self.weights -= np.outer(column, w / pivot)
        self.inverse -= np.outer(column, column / pivot)
        self.inverse[node] = self.inverse[:, node] = 0.0
        self.weights[node] = 0.0
        self.open[node] = False
        self.since += 1
        if self.since >= _REFRESH or pivot < self.least / _GROWN:
            self._fit()

    def _follow(self, node: int) -> None:
        """Bring u and v of the nodes looked at up to date with a removal."""
        (u, v), w = self._look(node), self.weights[node]
        nodes, pivot = list(self.ahead), float(self.inverse[node, node])
        share = self.inverse[nodes, node] / pivot
        move = (self.weights[nodes] @ w - share * float(w @ w)) / pivot
        self.v = self.v - np.outer(share, v) + np.outer(move, u)
        self.u = self.u - np.outer(share, u)


def standard(values: Floats) -> tuple[Floats, Floats]:
    """Return centred columns of unit variance, and the standard deviations; constants become zeros."""
    centred: Floats = np.asarray(values, np.float64) - values.mean(axis=0)
    spread: Floats = centred.std(axis=0)
    spread = np.where(spread > 1e-12 * np.abs(values).max(axis=0, initial=0.0), spread, 0.0)
    return np.where(spread > 0, centred / np.where(spread > 0, spread, 1.0), 0.0), spread


def eliminated(x: Floats, y: Floats, *, damping: float = 1e-3) -> tuple[Ints, Floats]:
    """Take out the node that costs least, one after the other, until none is left.

    Not TERC's order, but one that knows more at the same cost: it serves to rank under a budget.

    Returns:
        order: int64, shape (p,), first to go first.
        rise: float64, shape (p,): how much the loss rises as each goes, and no less than for those
            gone before.
    """
    ridge = Ridge(x, y, damping, by_sample=False)
    order: list[int] = [int(node) for node in np.flatnonzero(~ridge.open)]
    least, rise = 0.0, np.zeros(x.shape[1])
    while ridge.open.any():
        rises = ridge.rises()
        node = int(np.argmin(rises))
        least = max(least, float(rises[node]))
        rise[node] = least
        ridge.remove(node)
        order.append(node)
    return np.array(order, np.int64), rise
