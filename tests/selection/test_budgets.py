"""Budgets: read, refused, reached."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.core.contracts import Ranking
from onnxprune.core.errors import BudgetError, InternalError
from onnxprune.selection.budget import Budget, Options
from onnxprune.selection.select import Figures, check, follow, least, select
from onnxprune.selection.widths import allowed_widths
from tests.networks import NETWORKS
from tests.selection.common import cost_of, drawn, each_budget


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
        ("latency", "0.6", "latency", 0.6, True),
        ("latency", "12ms", "latency", 12, False),
        ("latency", "1.5 s", "latency", 1500, False),
        ("latency", "300us", "latency", 0.3, False),
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
        ("latency", "12"), ("latency", "12m"), ("latency", "ms"), ("latency", "1.2"), ("latency", "0ms"),
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
