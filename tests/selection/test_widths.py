"""Widths are multiples, floors hold, what is kept stays."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.core.errors import InternalError, OnnxPruneError
from onnxprune.core.positions import Axis
from onnxprune.selection.budget import Budget, Options
from onnxprune.selection.select import check, normalised, select
from onnxprune.selection.widths import allowed_widths
from tests.selection.common import cost_of, drawn


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
