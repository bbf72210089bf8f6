"""Plans: what they say, that they are read with suspicion, and that they can be re-applied."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, helper

from onnxprune.core.analysis import Analysis, Mask
from onnxprune.core.contracts import SURGERIES
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.graph import Graph
from onnxprune.plan import (
    Change,
    DataId,
    ModelId,
    Plan,
    PlannedTensor,
    Step,
    mask_of,
    plan_of,
    read_plan,
    removed_units,
    to_json,
    to_ranges,
    write_plan,
)
from onnxprune.structure.dependency import analyse
from onnxprune.structure.sites import module
from tests.networks import NETWORKS

CRITERION: dict[str, Any] = {"normalise": "mean", "power": np.float32(0.5)}  # numbers of any make

each_network = pytest.mark.parametrize("network", list(NETWORKS))


@cache
def analysis_of(network: str, seed: int = 0) -> Analysis:
    return analyse(NETWORKS[network].graph(seed))


def random_mask(analysis: Analysis, rng: np.random.Generator, share: float = 0.4) -> Mask:
    """Remove a random share of every group's units, as far as every axis keeps a position."""
    chosen = [rng.choice(g.units, int(len(g) * share), replace=False) for g in analysis.groups]
    units = np.concatenate([np.empty(0, np.int64), *chosen])
    mask = analysis.mask(units)
    while mask.emptied():
        units = rng.permutation(units)[: int(len(units) * 0.9)]
        mask = analysis.mask(units)
    return mask


def planned(mask: Mask, **more: Any) -> Plan:
    """The plan of a mask, with made-up reasons."""
    return plan_of(
        mask,
        model=ModelId("net.onnx", "0" * 64),
        criterion=Step("l2", CRITERION),
        selection={"macs": 0.5, "round_to": 8, "keep": ["stem*"]},
        **more,
    )


def read_back(plan: Plan, folder: Path) -> Plan:
    write_plan(plan, folder / "plan.json")
    return read_plan(folder / "plan.json")


# What a plan says ---------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 60)))
def test_ranges_say_the_positions(positions: set[int]) -> None:
    ranges = to_ranges(np.array(sorted(positions), np.int64))
    assert [i for start, stop in ranges for i in range(start, stop)] == sorted(positions)
    assert all(a[1] < b[0] for a, b in pairwise(ranges))  # as few as possible


@each_network
def test_positions_slice_every_weight_as_surgery_does(
    network: str, rng: np.random.Generator
) -> None:
    """What a PyTorch user does with a plan."""
    mask = random_mask(analysis_of(network), rng)
    pruned = SURGERIES["channels"](mask)
    tensors = planned(mask).tensors
    assert set(NETWORKS[network].shapes) <= set(tensors)
    for name, tensor in tensors.items():
        array = mask.analysis.graph.weights[name].array
        for axis in range(array.ndim):
            array = array.take(tensor.positions(axis), axis)
        assert array.shape == tensor.shape_after
        np.testing.assert_array_equal(array, pruned.weights[name].array)


@each_network
def test_groups_say_widths_units_and_scores(network: str, rng: np.random.Generator) -> None:
    analysis = analysis_of(network)
    mask = random_mask(analysis, rng)
    scores = [rng.random(len(g)) for g in analysis.groups]
    plan, gone = planned(mask, scores=scores), removed_units(mask)
    assert [g.name for g in plan.groups] == [g.name for g in analysis.groups]
    for said, group, score in zip(plan.groups, analysis.groups, scores, strict=True):
        first = group.members[0]
        tensor = plan.tensors[first.tensor]
        assert said.before == tensor.shape[first.axis]
        assert said.after == tensor.shape_after[first.axis]
        assert said.scores == tuple(score)
        expected = np.unique(first.index[gone[group.units]])
        assert said.removed == to_ranges(expected)


def test_attributes_that_change_are_listed(rng: np.random.Generator) -> None:
    mask = random_mask(analysis_of("depthwise"), rng)
    plan = planned(mask, pruned=SURGERIES["channels"](mask))
    assert [(e.where, e.what, e.before) for e in plan.edits] == [("c", "group", 16)]
    assert plan.edits[0].after == plan.tensors["w2"].shape_after[0]


def rename(model: ModelProto, names: dict[str, str]) -> None:
    """Give initializers other names, as another exporter would."""
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in model.graph.node:
        for slot, name in enumerate(node.input):
            node.input[slot] = names.get(name, name)


def test_names_of_parameters_and_modules() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="/layer1/layer1.0/conv1/Conv")
    assert module(node) == "layer1.0.conv1"
    assert module(NodeProto(name="/Flatten")) is None
    assert module(NodeProto(name="Conv_3")) is None
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'a', 'a.0', 'conv2d']")
    assert module(node) == "a.0"
    node.metadata_props[0].value = "['', 'view']"
    assert module(node) is None
    node.metadata_props[0].value = "__import__('os').abort()"
    assert module(node) is None
    model = NETWORKS["dense"].model()
    rename(model, {"w1": "body.0.weight"})
    tensors = planned(analyse(Graph.from_model(model)).mask(np.empty(0, np.int64))).tensors
    assert tensors["body.0.weight"].parameter == "body.0.weight"
    assert tensors["w2"].parameter is None


# The file -----------------------------------------------------------------------------------------


def full_plan(rng: np.random.Generator) -> Plan:
    """A plan with everything in it."""
    mask = random_mask(analysis_of("grouped"), rng)
    return planned(
        mask,
        repair=Step("least_squares", {"ridge": 1e-3, "rows": 32}),
        data=DataId("abc", 512, random=False),
        seed=7,
        scores=[np.linspace(0, 1 / 3, len(g)) for g in mask.analysis.groups],
        figures={"macs": Change(4_089_184_256.0, 2e9), "params": Change(25.5e6, 12e6)},
        pruned=SURGERIES["channels"](mask),
        proof={"gap": 1.25e-7, "tolerance": 1e-4, "runs": 3},
    )


def test_a_plan_comes_back_from_its_file(tmp_path: Path, rng: np.random.Generator) -> None:
    plan = full_plan(rng)
    again = read_back(plan, tmp_path)
    assert again.tensors == plan.tensors
    assert dataclasses.replace(again, groups=(), criterion=plan.criterion) == dataclasses.replace(
        plan, groups=()
    )
    assert again.criterion.settings == {"normalise": "mean", "power": 0.5}
    for one, other in zip(again.groups, plan.groups, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-8)
        assert dataclasses.replace(one, scores=other.scores) == other
    assert again.figures["macs"].before == 4_089_184_256


def test_the_same_plan_gives_the_same_bytes(tmp_path: Path, rng: np.random.Generator) -> None:
    plan = full_plan(rng)
    text = to_json(plan)
    assert to_json(read_back(plan, tmp_path)) == text
    backwards = dataclasses.replace(plan, tensors=dict(reversed(plan.tensors.items())))
    assert to_json(backwards) == text
    nudged = [
        dataclasses.replace(g, scores=tuple(s * (1 + 1e-12) for s in g.scores)) for g in plan.groups
    ]
    assert to_json(dataclasses.replace(plan, groups=tuple(nudged))) == text
    assert json.loads(text)["versions"]["onnx"] == onnx.__version__
    assert max(map(len, text.splitlines())) < 2000


def broken(change: str) -> str:
    """A plan's text after `change`, an assignment to parts of the value `p`."""
    tensor = PlannedTensor((4, 2), (((0, 1), (2, 4)), None), "FLOAT", "there:1")
    plan = Plan(
        model=ModelId("m", "0"), tensors={"w": tensor}, groups=(), criterion=Step("l1"),
        selection={}, repair=None, data=None, seed=0, versions={},
    )  # fmt: skip
    p = json.loads(to_json(plan))
    exec(change, {"p": p, "w": p["tensors"]["w"]})
    return json.dumps(p)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "not a plan"),
        (b"[]", "not a plan"),
        (b"{", "not a plan"),
        (b"\xff\xfe\x00", "not a plan"),
        (b"[" * 100_000, "not a plan"),
        (b'{"format": 1}', "model"),
        (b'{"format": 2}', "format 2, this onnxprune reads 1"),
        (broken("p['format'] = 'one'"), "format"),
        (broken("p['format'] = 10 ** 400"), "format"),
        (broken("del p['seed']"), "seed"),
        (broken("p['colour'] = 'red'"), "colour"),
        (broken("p['seed'] = 'x'"), "seed"),
        (broken("p['criterion'] = 3"), "criterion"),
        (broken("p['tensors'] = []"), "tensors"),
        (broken("w['kept'] = [[[0, 5]], None]"), "tensors.w"),
        (broken("w['kept'] = [[[-1, 2]], None]"), "tensors.w"),
        (broken("w['kept'] = [[[2, 4], [0, 1]], None]"), "tensors.w"),
        (broken("w['kept'] = [[[0, 2], [1, 3]], None]"), "tensors.w"),
        (broken("w['kept'] = [[[2, 2]], None]"), "tensors.w"),
        (broken("w['kept'] = [[], None]"), "tensors.w"),
        (broken("w['kept'] = [None]"), "tensors.w"),
        (broken("w['kept'] = [[[0, 1, 2]], None]"), "tensors.w"),
        (broken("w['shape'] = [4, float('nan')]"), "tensors.w"),
    ],
)
def test_a_bad_plan_is_refused_in_one_line(
    tmp_path: Path, text: str | bytes, expected: str
) -> None:
    file = tmp_path / "plan.json"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(OnnxPruneError) as caught:
        read_plan(file)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)
    assert expected in str(caught.value)


def test_a_plan_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OnnxPruneError, match="No such file"):
        read_plan(tmp_path / "plan.json")


def test_hostile_sizes_take_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(broken("w['shape'] = [10**15, 2]; w['kept'] = [[[0, 10**15 - 1]], None]"))
    with pytest.raises(OnnxPruneError, match="no weight 'w'"):
        mask_of(analysis_of("chain"), read_plan(file))
    plan = read_plan(file)
    plan = dataclasses.replace(plan, tensors={"w1": plan.tensors["w"]})
    with pytest.raises(OnnxPruneError, match=r"'w1' has shape \[16, 3, 3, 3\], planned"):
        mask_of(analysis_of("chain"), plan)
