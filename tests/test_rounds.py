"""Pruning in rounds: one mask of the original, one plan, one proof; resumed; trained in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.core.contracts import SURGERIES, Ranking
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.graph import Graph
from onnxprune.discover import discover
from onnxprune.pipeline.lifted import lifted, unit_origins
from onnxprune.pipeline.request import PruneRequest
from onnxprune.plan import read_plan
from onnxprune.structure.dependency import analyse
from tests import networks

discover()

NETWORKS = {**networks.NETWORKS, "normed": networks.NORMED}
RNG = np.random.default_rng(0)
DATA = {
    "x": RNG.standard_normal((64, 3, 8, 8)).astype(np.float32),
    "t": RNG.integers(0, 5, 64),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "residual.onnx"
    onnx.save(NETWORKS["residual"].model(), path)
    return path


def prune(model: Path, name: str, **settings: Any) -> Graph:
    target = model.with_name(f"{name}.onnx")
    defaults: dict[str, Any] = {"data": DATA, "macs": 0.4, "round_to": 1, "samples": 32}
    report = onnxprune.prune(model, target, **{**defaults, **settings})
    assert report.proof is not None
    assert report.figures["macs"].after <= 0.4 * report.figures["macs"].before * (1 + 1e-9)
    return Graph.from_model(onnx.load(target))


def shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    return {name: weight.shape for name, weight in graph.weights.items()}


@pytest.mark.parametrize("network", list(NETWORKS))
def test_units_are_found_again_after_a_cut(network: str) -> None:
    """What a unit of the cut model owns is what the unit that it was owns in the original."""
    analysis = analyse(NETWORKS[network].graph())
    rng = np.random.default_rng(1)
    units = np.concatenate(
        [rng.permutation(group.units)[: len(group) // 3] for group in analysis.groups]
    )
    mask = analysis.mask(np.sort(units))
    left = analyse(SURGERIES["channels"](mask))

    origins = unit_origins(mask, left)

    for group in left.groups:
        assert (origins[group.units] >= 0).all()
        assert len(set(origins[group.units])) == len(group)
        first = group.members[0]
        before = next(
            g for g in analysis.groups if set(origins[group.units]) <= set(g.units.tolist())
        )
        index = next(
            m.index for m in before.members if (m.tensor, m.axis) == (first.tensor, first.axis)
        )
        rows = {int(unit): own for unit, own in zip(before.units, index, strict=True)}
        old = np.moveaxis(analysis.graph.weights[first.tensor].array, first.axis, 0)
        new = np.moveaxis(left.graph.weights[first.tensor].array, first.axis, 0)
        for unit, own in zip(group.units, first.index, strict=True):
            cut = old[rows[int(origins[unit])]]
            other = [np.isin(cut, row).mean() for row in new[own]]
            assert min(other) > 0  # the values that other removals have left of it


def test_what_is_gone_lies_below_and_what_is_stuck_above() -> None:
    analysis = analyse(NETWORKS["chain"].graph())
    gone = analysis.groups[0].units[[2, 5]]
    mask = analysis.mask(gone)
    left = analyse(SURGERIES["channels"](mask))
    rankings = [Ranking(np.arange(len(group), dtype=np.float64)) for group in left.groups]
    origins = unit_origins(mask, left)
    origins[left.groups[1].units[0]] = -1  # as if it could no longer go

    first, second = lifted(mask, left, origins, rankings)

    assert set(np.argsort(first, kind="stable")[:2]) == {2, 5}
    np.testing.assert_array_equal(np.delete(first, [2, 5]), np.arange(14.0))
    np.testing.assert_array_equal(second, [11, *range(1, 12)])


@pytest.mark.parametrize("criterion", ["l1", "reconstruction", "flap"])
def test_rounds_meet_the_budget_with_one_plan(model: Path, criterion: str) -> None:
    graph = prune(model, "rounds", criterion=criterion, rounds=3)
    plan = model.with_name("rounds.plan.json")

    again = prune_by(model, plan)

    assert shapes(again) == shapes(graph)
    assert read_plan(plan).selection["rounds"] == 3
    onnxprune.verify(model.with_name("rounds.onnx"), plan, original=model)


def prune_by(model: Path, plan: Path) -> Graph:
    target = model.with_name("again.onnx")
    onnxprune.prune(model, target, plan=plan, data=DATA, samples=32)
    return Graph.from_model(onnx.load(target))


def test_one_round_is_a_plain_prune(model: Path) -> None:
    plain = prune(model, "plain", criterion="l2")
    one = prune(model, "one", criterion="l2", rounds=1)
    assert {n: w.array.tobytes() for n, w in plain.weights.items()} == {
        n: w.array.tobytes() for n, w in one.weights.items()
    }


def test_later_rounds_look_at_what_is_left(model: Path) -> None:
    """Scores by first derivatives change as units go, so that other units go than at once."""
    pytest.importorskip("torch")
    kept = []
    for rounds in (1, 6):
        prune(model, f"by-{rounds}", criterion="grasp", rounds=rounds, repair="none")
        plan = read_plan(model.with_name(f"by-{rounds}.plan.json"))
        kept.append([group.removed for group in plan.groups])
    assert kept[0] != kept[1]


class KilledError(Exception):
    pass


def test_a_killed_run_goes_on_to_the_same_file(model: Path, tmp_path: Path) -> None:
    whole = prune(model, "whole", rounds=3)

    def kill(what: str, *_: int) -> None:
        if what.startswith("round 3"):
            raise KilledError

    with pytest.raises(KilledError):
        prune(model, "part", rounds=3, work=tmp_path / "work", progress=kill)
    seen: list[str] = []
    resumed = prune(
        model, "part", rounds=3, work=tmp_path / "work",
        progress=lambda what, *_: seen.append(what),
    )  # fmt: skip

    assert seen.count("repair") == 1  # the first two are remembered
    assert {n: w.array.tobytes() for n, w in whole.weights.items()} == {
        n: w.array.tobytes() for n, w in resumed.weights.items()
    }


@pytest.mark.parametrize("rewind", [False, True])
def test_training_between_rounds(model: Path, rewind: bool) -> None:
    pytest.importorskip("torch")

    graph = prune(
        model, "trained", criterion="imp", rounds=2, retrain="epochs=2,rate=0.001,batch=16",
        rewind=rewind, labels="t",
    )  # fmt: skip

    plain = prune(model, "untrained", criterion="imp", rounds=2, labels="t")
    plan = model.with_name("trained.plan.json")
    onnxprune.verify(model.with_name("trained.onnx"), plan, original=model)
    selection = read_plan(plan).selection
    assert (selection["rewind"], selection["retrain"]) == (rewind, "epochs=2,rate=0.001,batch=16")
    common = graph.weights.keys() & plain.weights.keys()
    assert any(graph.weights[n].array.tobytes() != plain.weights[n].array.tobytes() for n in common)


def test_gradients_of_later_rounds_aim_at_the_original(model: Path) -> None:
    """Without labels; and what criteria remember of the first round is not taken for the second."""
    pytest.importorskip("torch")
    prune(model, "taught", criterion="snip", rounds=3, repair="least-squares")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rounds": 0}, "--rounds 0: expected at least 1"),
        ({"train": DATA}, "--train is of use with --retrain only"),
        ({"rewind": True}, "--rewind is of use with --retrain only"),
        ({"retrain": "epochs=1", "data": None}, "--retrain needs samples to train on"),
        ({"rounds": 2, "latency": 0.5, "macs": None}, "--rounds does not go with --latency"),
        ({"rounds": 2, "max_drop": "1%", "macs": None}, "--rounds does not go with --max-drop"),
        ({"rounds": 2, "macs": None, "criterion": "mipp"}, "--rounds goes to a budget"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(OnnxPruneError, match=says) as caught:
        PruneRequest("x.onnx", **{"data": DATA, "macs": 0.5, **settings})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epoch=2", "--retrain has no setting 'epoch': did you mean 'epochs'"),
        ("epochs=two", "--retrain, epochs='two'"),
    ],
)
def test_a_recipe_that_is_none_is_refused(model: Path, text: str, says: str) -> None:
    pytest.importorskip("torch")
    with pytest.raises(OnnxPruneError, match=says):
        prune(model, "bad", rounds=2, retrain=text)
