"""Selection: budgets are met exactly as costed, least important first, within every rule."""

from __future__ import annotations

import dataclasses
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from onnxprune.core.analysis import CostModel
from onnxprune.core.contracts import Floats, Ranking
from onnxprune.core.errors import BudgetError, InternalError, OnnxPruneError
from onnxprune.core.positions import Axis
from onnxprune.core.rules import OP_RULES
from onnxprune.core.shapes import instantiate
from onnxprune.selection.budget import Budget, Options
from onnxprune.selection.grids import Grid
from onnxprune.selection.select import Figures, Selection, check, follow, least, normalised, select
from onnxprune.selection.widths import allowed_widths
from onnxprune.structure.dependency import analyse
from tests.networks import NETWORKS, Network, bottlenecks

SMALL_RESNET = bottlenecks((2, 2, 1), (16, 24, 32), 32)
ALL = {**NETWORKS, "resnet": SMALL_RESNET}
FIGURES = {"macs": "macs", "params": "params", "size": "size", "ratio": "units"}

each_network = pytest.mark.parametrize("network", list(ALL))
each_budget = pytest.mark.parametrize("option", list(FIGURES))


def costed(network: Network) -> CostModel:
    analysis = analyse(network.graph())
    instance = instantiate(analysis.graph, OP_RULES.shape_functions, sizes=(1, 1, 8))
    assert instance is not None
    return CostModel(analysis, instance)


@cache
def cost_of(network: str) -> CostModel:
    return costed(ALL[network])


def drawn(cost: CostModel, seed: int = 0) -> list[Floats]:
    rng = np.random.default_rng(seed)
    return [rng.lognormal(size=len(group)) for group in cost.analysis.groups]


def share(selection: Selection, option: str) -> float:
    figure = FIGURES[option]
    return float(getattr(selection.after, figure) / getattr(selection.before, figure))


# -- what every selection promises ----------------------------------------------------------------


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
def test_global_ranking_equals_the_plain_algorithm(network: str, option: str) -> None:
    """The ledger's running costs against masks costed afresh for every candidate of every step."""
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


# -- widths ---------------------------------------------------------------------------------------


def test_widths_are_multiples_and_narrow_groups_step_smaller() -> None:
    cost = cost_of("chain")  # groups of 16 and 12

    sixteen, twelve = allowed_widths(cost.analysis, Options(round_to=8))

    assert sixteen.tolist() == [16, 8]
    assert twelve.tolist() == [12, 8, 4]


def test_a_width_that_is_no_multiple_may_stay_as_it_is() -> None:
    cost = cost_of("dense")  # groups of 32 and 20

    _, twenty = allowed_widths(cost.analysis, Options(round_to=8))

    assert twenty.tolist() == [20, 16, 8]


@pytest.mark.parametrize("round_to", [2, 4, 8])
def test_grids_of_groups_and_offsets_keep_multiples(round_to: int) -> None:
    """Kept channels of a grouped convolution are groups x offsets: 4 x 8 at first."""
    cost = cost_of("grouped")
    analysis = cost.analysis
    widths = allowed_widths(analysis, Options(round_to=round_to, floor=0))
    rng = np.random.default_rng(round_to)
    for _ in range(20):
        chosen = [int(rng.choice(allowed)) for allowed in widths]
        units = [g.units[k:] for g, k in zip(analysis.groups, chosen, strict=True)]

        mask = analysis.mask(np.concatenate(units))

        for axis in (cost.analysis.space.find("w1", 0), cost.analysis.space.find("w2", 0)):
            assert axis is not None
            kept = mask.kept(Axis(axis, cost.analysis.space.sizes[axis]))
            assert len(kept) % round_to == 0


def test_every_group_keeps_its_floor() -> None:
    cost = cost_of("resnet")

    for group, widths in zip(
        cost.analysis.groups,
        allowed_widths(cost.analysis, Options(floor=0.5, round_to=1)),
        strict=True,
    ):
        assert -(-len(group) // 2) == widths[-1]


@pytest.mark.parametrize("pattern", ["s0b0a", "s0b0?", "*b0a", "s[0]b0a"])
def test_keep_protects_groups_by_name_or_weight(pattern: str) -> None:
    cost = cost_of("resnet")

    found = select(cost, drawn(cost), Budget.parse("macs", 0.7), Options(keep=(pattern,)))

    mask = cost.analysis.mask(found.units)
    assert mask.gone_at("s0b0a", 0) is None
    assert mask.gone_at("s0b0a", 1) is None


def test_keep_that_matches_nothing_names_the_nearest() -> None:
    cost = cost_of("resnet")

    with pytest.raises(
        OnnxPruneError, match=r"--keep 's0b0x' matches no group .* nearest .* 's0b0"
    ):
        check(cost, Budget.parse("macs", 0.5), Options(keep=("s0b0x",)))


# -- scores of different groups -------------------------------------------------------------------


def test_normalised_scores_do_not_depend_on_the_scale_of_a_group() -> None:
    cost = cost_of("resnet")
    scores = drawn(cost)
    scaled = [s * 10.0 ** (n % 3) for n, s in enumerate(scores)]
    budget, options = Budget.parse("macs", 0.5), Options(scope="global", round_to=1)

    assert select(cost, scores, budget, options).kept == select(cost, scaled, budget, options).kept
    raw = (select(cost, s, budget, options, comparable=True).kept for s in (scores, scaled))
    assert next(raw) != next(raw)


@pytest.mark.parametrize("how", ["none", "mean", "sum", "max", "standard"])
def test_normalised_scores_are_never_negative_and_keep_their_order(how: str) -> None:
    scores = [np.array([-2.0, 0.5, 1.0]), np.zeros(4), np.array([7.0])]

    found = normalised(scores, how)  # type: ignore[arg-type]

    assert min(f.min() for f in found) == 0
    for given, got in zip(scores, found, strict=True):
        assert np.isfinite(got).all()
        assert (np.argsort(given, kind="stable") == np.argsort(got, kind="stable")).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_a_bug(bad: float) -> None:
    cost = cost_of("chain")
    scores = drawn(cost)
    scores[0][3] = bad

    with pytest.raises(InternalError, match="one finite score per unit"):
        select(cost, scores, Budget.parse("macs", 0.5))


# -- budgets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "figure", "number", "relative"),
    [
        ("macs", "0.5", "macs", 0.5, True),
        ("macs", 0.5, "macs", 0.5, True),
        ("macs", "50%", "macs", 0.5, True),
        ("macs", "1.2G", "macs", 1.2e9, False),
        ("params", "6.9M", "params", 6.9e6, False),
        ("size", "10MB", "size", 1e7, False),
        ("size", "500 kB", "size", 5e5, False),
        ("size", "512KiB", "size", 512 * 1024, False),
        ("size", "900B", "size", 900, False),
        ("size", ".25", "size", 0.25, True),
        ("ratio", "0.3", "units", 0.7, True),
    ],
)
def test_budgets_are_read(
    option: str, value: str | float, figure: str, number: float, relative: bool
) -> None:
    found = Budget.parse(option, value)

    assert (figure, relative) == (found.figure, found.relative)
    assert found.value == pytest.approx(number, rel=1e-12)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("macs", "0"), ("macs", "1"), ("macs", "-0.5"), ("macs", "nan"), ("macs", float("nan")),
        ("macs", "half"), ("macs", "10MB"), ("macs", ""), ("macs", "."), ("macs", "1.2.3"),
        ("params", "2"), ("params", "120%"), ("size", "12"), ("size", "0MB"), ("size", "10MX"),
        ("ratio", "1"), ("ratio", "10M"), ("ratio", "0"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_with_what_was_expected(option: str, value: str | float) -> None:
    with pytest.raises(BudgetError, match=rf"^--{option} .* is no budget: expected .*"):
        Budget.parse(option, value)


@pytest.mark.parametrize("options", [{"round_to": 0}, {"floor": 1.0}, {"floor": -0.1}])
def test_options_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(BudgetError, match="expected"):
        Options(**options)  # type: ignore[arg-type]


@each_budget
def test_a_budget_out_of_reach_is_refused_with_the_least_reachable(option: str) -> None:
    cost = cost_of("resnet")
    reachable: Figures = least(cost, Options())
    value = 0.97 if option == "ratio" else 0.01

    with pytest.raises(BudgetError, match=r"out of reach.*least reachable is") as caught:
        check(cost, Budget.parse(option, value), Options())
    assert "\n" not in str(caught.value)
    assert reachable.macs > 0.01 * cost.macs(cost.full)


@pytest.mark.parametrize("option", ["macs", "params", "size"])
@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_the_least_reachable_figure_can_be_reached(option: str, scope: str) -> None:
    cost = cost_of("grouped")
    options = Options(scope=scope)  # type: ignore[arg-type]
    floor = getattr(least(cost, options), option)
    budget = Budget(option, floor, relative=False, asked=f"--{option}")  # type: ignore[arg-type]

    found = select(cost, drawn(cost), budget, options)

    assert getattr(found.after, option) == pytest.approx(floor, rel=1e-12)


def test_a_budget_that_is_met_already_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"--size 900MB is met already: the model has [\d.]+ kB"):
        check(cost_of("chain"), Budget.parse("size", "900MB"), Options())


def test_nothing_to_remove_is_said() -> None:
    with pytest.raises(BudgetError, match="no group of channels may lose any"):
        check(cost_of("chain"), Budget.parse("macs", 0.5), Options(keep=("*",)))


def test_size_counts_the_whole_file() -> None:
    cost = cost_of("resnet")
    written = len(cost.analysis.graph.to_model().SerializeToString())

    assert written <= cost.size(cost.full) <= 1.01 * written


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_a_ratio_is_a_share_of_what_may_go(scope: str) -> None:
    cost = cost_of("resnet")
    keep = ("s[01]*", "stem")
    whole = [len(w) == 1 for w in allowed_widths(cost.analysis, Options(keep=keep))]
    options = Options(scope=scope, round_to=1, keep=keep)  # type: ignore[arg-type]
    found = select(cost, drawn(cost), Budget.parse("ratio", 0.5), options)

    sizes = [(len(g), k) for g, k in zip(cost.analysis.groups, found.kept, strict=True)]
    assert all(n == k for (n, k), stays in zip(sizes, whole, strict=True) if stays)
    free = [pair for pair, stays in zip(sizes, whole, strict=True) if not stays]
    assert sum(n for n, _ in free) // 2 == sum(k for _, k in free)


@pytest.mark.parametrize("network", list(NETWORKS))
@pytest.mark.parametrize("round_to", [1, 4])
def test_a_choice_of_the_criterion_is_followed(network: str, round_to: int) -> None:
    """Widths are rounded up; of what rounding brings back, the best stay; floors and keep hold."""
    cost = cost_of(network)
    rng = np.random.default_rng(3)
    rankings = []
    for scores in drawn(cost):
        keep = rng.random(len(scores)) < 0.5
        keep[0] = True
        rankings.append(Ranking(scores, keep))

    selection = follow(cost, rankings, Options(round_to=round_to, floor=0.0))

    gone = set(selection.units.tolist())
    widths = allowed_widths(cost.analysis, Options(round_to=round_to, floor=0.0))
    for group, ranking, allowed, kept in zip(
        cost.analysis.groups, rankings, widths, selection.kept, strict=True
    ):
        assert ranking.keep is not None
        removed = np.array([unit in gone for unit in group.units.tolist()])
        assert kept == (~removed).sum()
        if kept > min(w for w in allowed if w >= ranking.keep.sum()):
            continue  # given back, so that an axis that groups share keeps a position
        assert not (removed & ranking.keep).any()
        brought_back = ~ranking.keep & ~removed
        if brought_back.any() and removed.any():
            assert ranking.scores[brought_back].min() >= ranking.scores[removed].max()


def test_a_criterion_that_does_not_choose_cannot_be_followed() -> None:
    cost = cost_of("chain")
    rankings = [Ranking(scores) for scores in drawn(cost)]
    with pytest.raises(InternalError, match="must say what it keeps"):
        follow(cost, rankings, Options())
