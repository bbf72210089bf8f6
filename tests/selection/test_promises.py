"""What every selection promises."""

from __future__ import annotations

import dataclasses
from itertools import pairwise, permutations

import numpy as np
import pytest

from onnxprune.selection import descent
from onnxprune.selection.budget import Budget, Options
from onnxprune.selection.grids import Grid
from onnxprune.selection.select import Selection, check, normalised, select
from onnxprune.selection.widths import allowed_widths
from tests.networks import Network
from tests.selection.common import ALL, FIGURES, cost_of, costed, drawn, each_budget

each_network = pytest.mark.parametrize("network", list(ALL))


def share(selection: Selection, option: str) -> float:
    figure = FIGURES[option]
    return float(getattr(selection.after, figure) / getattr(selection.before, figure))


@each_network
@each_budget
@pytest.mark.parametrize("scope", ["uniform", "global"])
@pytest.mark.parametrize("round_to", [1, 8])
def test_a_selection_keeps_every_rule(network: str, option: str, scope: str, round_to: int) -> None:
    cost = cost_of(network)
    options = Options(scope=scope, round_to=round_to)  # type: ignore[arg-type]

    found = select(
        cost, drawn(cost), Budget.parse(option, 0.3 if option == "ratio" else 0.7), options
    )

    mask = cost.analysis.mask(found.units)
    mask.check()
    lengths = cost.lengths(mask.removed)
    exact = cost.macs(lengths), cost.params(lengths), cost.size(lengths), sum(found.kept)
    np.testing.assert_allclose(dataclasses.astuple(found.after), exact, rtol=1e-12)
    widths = allowed_widths(cost.analysis, options)
    assert all(kept in allowed for kept, allowed in zip(found.kept, widths, strict=True))
    if option != "ratio":
        assert share(found, option) <= 0.7 + 1e-9
    np.testing.assert_allclose(found.trail[-1, 0], share(found, option), rtol=1e-9)


@each_network
def test_the_lowest_scores_of_a_group_go_first(network: str) -> None:
    cost = cost_of(network)
    scores = drawn(cost)

    found = select(cost, scores, Budget.parse("params", 0.5), Options(round_to=1), comparable=True)

    for group, score, kept in zip(cost.analysis.groups, scores, found.kept, strict=True):
        gone = np.isin(group.units, found.units)
        assert len(group) - kept == gone.sum()
        assert score[gone].max(initial=0) <= score[~gone].min()


@each_network
def test_nothing_goes_that_could_stay(network: str) -> None:
    """After a global selection no group can take its last unit back."""
    cost = cost_of(network)
    scores = drawn(cost)
    budget = Budget.parse("macs", 0.5)
    limit = check(cost, budget, Options(round_to=1))

    found = select(cost, scores, budget, Options(scope="global", round_to=1))

    for group, score in zip(cost.analysis.groups, scores, strict=True):
        gone = np.flatnonzero(np.isin(group.units, found.units))
        if len(gone):
            last = group.units[gone[score[gone].argmax()]]
            mask = cost.analysis.mask(np.setdiff1d(found.units, [last]))
            assert cost.macs(cost.lengths(mask.removed)) > limit


@each_network
@pytest.mark.parametrize("option", ["macs", "params"])
def test_global_ranking_equals_the_plain_algorithm(
    network: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger's running costs against masks costed afresh for every candidate of every step."""
    monkeypatch.setattr(descent, "_FEW", 0)  # without the exchanges that follow
    cost = cost_of(network)
    scores = normalised(drawn(cost), "mean")
    limit = check(cost, Budget.parse(option, 0.7), Options(round_to=4))

    found = select(
        cost, drawn(cost), Budget.parse(option, 0.7), Options(scope="global", round_to=4)
    )

    widths = [list(w) for w in allowed_widths(cost.analysis, Options(round_to=4))]
    orders = [np.argsort(s, kind="stable") for s in scores]
    level = [0] * len(widths)

    def figure(levels: list[int]) -> float:
        groups = zip(cost.analysis.groups, orders, widths, levels, strict=True)
        units = [g.units[o[: len(o) - w[i]]] for g, o, w, i in groups]
        lengths = cost.lengths(cost.analysis.mask(np.concatenate(units)).removed)
        return float(getattr(cost, option)(lengths))

    def step(levels: list[int], number: int, by: int) -> list[int]:
        return [n + by * (i == number) for i, n in enumerate(levels)]

    def loss(number: int, index: int) -> float:
        order, width = orders[number], widths[number]
        ids = order[len(order) - width[index] : len(order) - width[index + 1]]
        return float(scores[number][ids].sum())

    now = figure(level)
    while now > limit:
        nexts = [g for g in range(len(level)) if level[g] + 1 < len(widths[g])]
        saved = {g: now - figure(step(level, g, 1)) for g in nexts}
        price = {g: loss(g, level[g]) / saved[g] for g in nexts if saved[g] > 0}
        best = min(price, key=lambda g: price[g])
        if saved[best] >= now - limit:
            enough = [g for g in price if saved[g] >= now - limit]
            best = min(enough, key=lambda g: loss(g, level[g]))
        level = step(level, best, 1)
        now = figure(level)
    while True:
        backs = {g: figure(step(level, g, -1)) for g in range(len(level)) if level[g]}
        worth = {g: loss(g, level[g] - 1) / (f - now) for g, f in backs.items() if f <= limit}
        if not worth:
            break
        best = max(worth, key=lambda g: worth[g])
        level, now = step(level, best, -1), backs[best]
    assert tuple(w[i] for w, i in zip(widths, level, strict=True)) == found.kept


@each_network
def test_no_exchange_of_two_steps_gains(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of masks costed afresh; exchanging loses no more than the ranking alone."""
    cost, options = cost_of(network), Options(scope="global", round_to=4)
    scores, budget = drawn(cost), Budget.parse("macs", 0.6)
    found = select(cost, scores, budget, options, comparable=True)
    widths, limit = allowed_widths(cost.analysis, options), check(cost, budget, options)
    orders = [np.argsort(s, kind="stable") for s in scores]
    level = [w.tolist().index(kept) for w, kept in zip(widths, found.kept, strict=True)]

    def judged(levels: list[int]) -> tuple[float, float]:
        chosen = [o[: w[0] - w[i]] for o, w, i in zip(orders, widths, levels, strict=True)]
        units = [g.units[c] for g, c in zip(cost.analysis.groups, chosen, strict=True)]
        mask = cost.analysis.mask(np.concatenate(units))
        lost = sum(float(s[c].sum()) for s, c in zip(scores, chosen, strict=True))
        return float(cost.macs(cost.lengths(mask.removed))), lost

    least = judged(level)[1]
    assert least == pytest.approx(found.trail[-1, 1], rel=1e-9)
    for further, back in permutations(range(len(level)), 2):
        if level[further] + 1 < len(widths[further]) and level[back]:
            other = [n + (i == further) - (i == back) for i, n in enumerate(level)]
            figure, lost = judged(other)
            assert figure > limit or lost >= least * (1 - 1e-9)
    monkeypatch.setattr(descent, "_FEW", 0)
    assert least <= select(cost, scores, budget, options, comparable=True).trail[-1, 1] + 1e-9


@pytest.mark.parametrize("network", sorted(set(ALL) - {"grouped"}))
def test_uniform_groups_lose_the_same_share(network: str) -> None:
    cost = cost_of(network)
    options = Options(scope="uniform", round_to=1)

    found = select(cost, drawn(cost), Budget.parse("ratio", 0.5), options)

    assert tuple(len(group) // 2 for group in cost.analysis.groups) == found.kept


def test_uniform_factors_of_a_grid_lose_the_share_together() -> None:
    """The 8 offsets are an axis of the weight, and with 4 groups one of 32: both lose a half."""
    cost = cost_of("grouped")
    options = Options(scope="uniform", round_to=1)

    found = select(cost, drawn(cost), Budget.parse("ratio", 0.5), options)

    whole = {len(g): k for g, k in zip(cost.analysis.groups, found.kept, strict=True)}
    assert whole == {4: 4, 8: 4}


def test_factors_of_several_axes_lose_what_suits_all_of_them() -> None:
    """A stem of 12, twice doubled by depthwise convolutions: the 12 is a factor of all three."""
    stem = Network(
        """net (float[N,3,8,8] x) => (float[N,2,8,8] y) {
            a = Conv(x, stem)
            b = Conv<group=12>(a, twice)
            c = Relu(b)
            d = Conv<group=24>(c, again)
            y = Conv(d, head)
        }""",
        {
            "stem": (12, 3, 1, 1),
            "twice": (24, 1, 1, 1),
            "again": (48, 1, 1, 1),
            "head": (2, 48, 1, 1),
        },
    )
    cost = costed(stem)
    options = Options(scope="uniform", round_to=1)

    found = select(cost, drawn(cost), Budget.parse("ratio", 0.5), options)

    kept = sorted((len(g), k) for g, k in zip(cost.analysis.groups, found.kept, strict=True))
    assert kept == [(2, 2), (2, 2), (12, 6)]


@pytest.mark.parametrize("heads", [2, 3, 5])
def test_heads_and_their_dimensions_share_what_an_axis_loses(heads: int) -> None:
    """What one of them can not keep exactly the other makes good."""
    widths = [np.arange(heads, 0, -1), np.arange(60, 0, -1)]
    part = Grid((0, 1), np.ones((1, 2)), (np.array([0.5]), np.array([1.0])))

    levels = part.levels(0.5, widths)

    kept = [int(width[levels[g]]) for g, width in enumerate(widths)]
    assert abs(kept[0] * kept[1] - heads * 30) <= heads / 2


@each_network
def test_equal_input_gives_the_equal_selection_and_ties_go_to_the_lowest(network: str) -> None:
    cost = cost_of(network)
    equal = [np.ones(len(g)) for g in cost.analysis.groups]

    first, second = (select(cost, equal, Budget.parse("macs", 0.6)) for _ in range(2))

    assert first.units.tolist() == second.units.tolist()
    for group, kept in zip(cost.analysis.groups, first.kept, strict=True):
        assert np.isin(group.units[: len(group) - kept], first.units).all()


@each_network
@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_what_is_lost_is_the_share_of_the_scores_that_went(network: str, scope: str) -> None:
    cost = cost_of(network)
    scores = drawn(cost)

    options = Options(scope=scope)  # type: ignore[arg-type]
    found = select(cost, scores, Budget.parse("macs", 0.7), options)

    groups = zip(cost.analysis.groups, normalised(scores, "mean"), strict=True)
    gone = [values[np.isin(group.units, found.units)].sum() for group, values in groups]
    whole = sum(len(group) for group in cost.analysis.groups)  # each group's mean is one
    assert found.lost is not None
    assert 0 < found.lost < 1
    assert found.lost == pytest.approx(sum(gone) / whole, rel=1e-9)


def test_the_trail_descends_to_the_limit() -> None:
    cost = cost_of("resnet")

    found = select(
        cost, drawn(cost), Budget.parse("macs", 0.5), Options(scope="global", round_to=1)
    )

    down = [a for a, b in pairwise(found.trail[:, 0]) if b < a]
    assert tuple(found.trail[0]) == (1.0, 0.0)
    assert len(down) > 50
    assert found.trail[-1, 0] > 0.49


def test_scope_follows_the_criterion() -> None:
    cost = cost_of("resnet")
    scores, budget = drawn(cost), Budget.parse("macs", 0.5)

    assert (
        select(cost, scores, budget).kept == select(cost, scores, budget, Options("uniform")).kept
    )
    ranked = Options("global", normalise="none")
    expected = select(cost, scores, budget, ranked).kept
    assert expected == select(cost, scores, budget, comparable=True).kept
