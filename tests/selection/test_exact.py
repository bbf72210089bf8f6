"""The selection beside the best of all, where all combinations of widths can be tried."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from onnxprune.core.contracts import Floats
from onnxprune.core.cost import CostModel
from onnxprune.selection.budget import Budget, Options
from onnxprune.selection.ledger import Ledger
from onnxprune.selection.select import select
from onnxprune.selection.widths import allowed_widths

from .common import cost_of, drawn

SMALL = ("chain", "residual", "concat", "depthwise", "grouped")
SHARES = (0.8, 0.6, 0.4)
FINE = Options(round_to=1, scope="global")


def least_lost(cost: CostModel, scores: Sequence[Floats], budget: Budget) -> float:
    """Try all combinations of allowed widths; return the least sum of scores that meets a budget."""
    order = [np.argsort(s, kind="stable") for s in scores]
    lost = [np.append(0.0, np.cumsum(s[o])) for s, o in zip(scores, order, strict=True)]
    widths = allowed_widths(cost.analysis, FINE)
    ledger = Ledger(cost, budget.figure, order, widths)
    limit, best = budget.limit(ledger.figure()), np.inf
    for level in itertools.product(*(range(len(w)) for w in widths)):
        ledger.set(np.array(level))
        if ledger.figure() <= limit * (1 + 1e-9):
            gone = [int(w[0]) - kept for w, kept in zip(widths, ledger.kept(), strict=True)]
            best = min(best, sum(float(s[n]) for s, n in zip(lost, gone, strict=True)))
    return best


def excess(network: str, figure: str, share: float, seed: int) -> float:
    """How much more than necessary is lost, as a share of that."""
    cost = cost_of(network)
    scores = drawn(cost, seed)
    budget = Budget.parse(figure, share)
    found = select(cost, scores, budget, FINE, comparable=True)
    return float(found.trail[-1, 1]) / least_lost(cost, scores, budget) - 1


@pytest.mark.parametrize("network", ["chain", "residual", "concat"])
def test_exact_where_costs_add(network: str) -> None:
    """Units that cost the same: the lowest scores of all go, which is the best there is."""
    for share in SHARES:
        assert excess(network, "ratio", share, seed=0) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("network", SMALL)
def test_exact_where_costs_are_products_of_widths(network: str) -> None:
    """One to three groups, so that one unit is much: the best of all combinations of widths."""
    for share, seed in itertools.product(SHARES, range(2)):
        assert excess(network, "macs", share, seed) == pytest.approx(0.0, abs=1e-9)
