"""`inspect`: what a group is, what hangs on it, all that goes with it, who feeds whom."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from rich.console import Console

import onnxprune as op
from onnxprune.cli import main
from onnxprune.core.cost import CostModel
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.graph import Graph
from onnxprune.proof.example import example, instance_of
from onnxprune.show.groups import GroupView, named
from onnxprune.show.overview import Overview
from onnxprune.show.overview_text import group_report, overview_report, slices
from onnxprune.show.report import plain
from onnxprune.structure.dependency import analyse
from tests.handmade import handmade, ints
from tests.networks import NETWORKS

RESIDUAL = """(float[N,6,8,8] x) => (float[N,5] y) {
    s = Conv<pads=[1,1,1,1]>(x, w_stem, b_stem)
    a = Conv<pads=[1,1,1,1]>(s, w_in, b_in)  r = Relu(a)
    d = Conv<group=16, pads=[1,1,1,1]>(r, w_deep, b_deep)
    c = Conv(d, w_out, b_out)  t = Add(s, c)
    m = GlobalAveragePool(t)  f = Flatten(m)  y = Gemm(f, w_head, b_head) }"""
WEIGHTS: dict[str, Any] = {
    "w_stem": (8, 6, 3, 3), "b_stem": (8,), "w_in": (16, 8, 3, 3), "b_in": (16,),
    "w_deep": (16, 1, 3, 3), "b_deep": (16,), "w_out": (8, 16, 1, 1), "b_out": (8,),
    "w_head": (8, 5), "b_head": (5,),
}  # fmt: skip


@pytest.fixture
def residual(tmp_path: Path) -> Path:
    onnx.save(handmade(RESIDUAL, **WEIGHTS), tmp_path / "residual.onnx")
    return tmp_path / "residual.onnx"


@pytest.fixture
def attention(tmp_path: Path) -> Path:
    text = """(float[N,9,32] x) => (float[N,9,32] y) {
        q0 = MatMul(x, wq)  k0 = MatMul(x, wk)  v0 = MatMul(x, wv)
        q1 = Reshape(q0, h)  q = Transpose<perm=[0,2,1,3]>(q1)
        k1 = Reshape(k0, h)  k = Transpose<perm=[0,2,3,1]>(k1)
        v1 = Reshape(v0, h)  v = Transpose<perm=[0,2,1,3]>(v1)
        s = MatMul(q, k)  p = Softmax(s)  o1 = MatMul(p, v)
        o2 = Transpose<perm=[0,2,1,3]>(o1)  o = Reshape(o2, f)  y = MatMul(o, wo) }"""
    square = dict.fromkeys(("wq", "wk", "wv", "wo"), (32, 32))
    model = handmade(text, **square, h=ints(0, 0, 4, 8), f=ints(0, 0, 32))  # type: ignore[arg-type]
    onnx.save(model, tmp_path / "attention.onnx")
    return tmp_path / "attention.onnx"


def by_name(view: Overview) -> dict[str, GroupView]:
    return {group.name: group for group in view.groups}


def printed(renderable: Any, width: int) -> str:
    console = Console(width=width, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


# -- groups -------------------------------------------------------------------------------------
def test_a_stream_has_several_writers_and_a_depthwise_convolution_none(residual: Path) -> None:
    groups = by_name(op.inspect(residual))

    assert set(groups) == {"w_stem", "w_in"}
    stem, inner = groups["w_stem"], groups["w_in"]
    assert (stem.kind, stem.writers, stem.readers) == ("stream", 2, 2)
    assert (inner.kind, inner.writers, inner.readers) == ("inner", 1, 1)
    assert (stem.count, inner.count) == ("8", "16")


def test_heads_and_their_dimensions_are_a_grid(attention: Path) -> None:
    groups = op.inspect(attention).groups

    assert [(g.kind, g.count) for g in groups] == [
        ("grid", "4 x 8"), ("grid", "8 x 4"), ("grid", "8 x 4")
    ]  # fmt: skip
    assert {p.tensor for p in groups[0].places} == {"wq", "wk", "wv", "wo"}


def test_what_is_unlocked_is_a_kind(residual: Path) -> None:
    groups = op.inspect(residual, unlock=("output:y", "input:x")).groups

    assert {g.kind for g in groups} == {"input", "stream", "inner", "output"}


def test_costs_are_what_goes(residual: Path) -> None:
    graph = Graph.from_model(onnx.load(residual))
    analysis = analyse(graph)
    cost = CostModel(analysis, instance_of(analysis.graph, example(graph)))
    full = cost.lengths()
    for group, view in zip(analysis.groups, op.inspect(residual).groups, strict=True):
        for units, macs, params in (
            (group.units, view.macs, view.params),
            (group.units[:1], view.unit_macs, view.unit_params),
        ):
            left = cost.lengths(analysis.mask(units).removed)
            assert macs == pytest.approx(cost.macs(full) - cost.macs(left), rel=1e-12)
            assert params == pytest.approx(cost.params(full) - cost.params(left), rel=1e-12)
            assert min(macs, params) > 0


def test_every_slice_of_a_group_is_shown(residual: Path) -> None:
    view = op.inspect(residual, group="w_in")
    (group,) = (view.groups[number] for number in view.chosen)

    places = {(p.tensor, p.axis, p.role, p.each, p.first, p.last) for p in group.places}
    one = (1, ((0, 1),), ((15, 16),))
    assert places == {
        ("w_in", 0, "produces", *one), ("b_in", 0, "carries", *one),
        ("w_deep", 0, "produces", *one), ("b_deep", 0, "carries", *one),
        ("w_out", 1, "consumes", *one),
    }  # fmt: skip
    text = printed(group_report([group]), 80)
    assert all(f" {name} " in text for name in ("w_in", "b_deep", "w_out", "consumes", "15"))


def test_groups_are_found_by_weight_and_pattern(residual: Path) -> None:
    groups = op.inspect(residual).groups

    assert named(groups, "b_out") == named(groups, "w_stem") == [0]
    assert len(named(groups, "w_*")) == 2
    with pytest.raises(OnnxPruneError, match=r"'w_ion' names no group .* nearest name is 'w_in'"):
        named(groups, "w_ion")


def test_slices_are_written_as_numpy_does() -> None:
    assert slices(((0, 1), (2, 5), (6, 7), (8, 9), (10, 11))) == "0, 2:5, 6, and 2 more"


# -- frozen and fed -----------------------------------------------------------------------------
def test_who_feeds_whom(residual: Path) -> None:
    view = op.inspect(residual, blocks=True)

    stem, inner = ([g.name for g in view.groups].index(name) for name in ("w_stem", "w_in"))
    flow = [(o.weight, o.reads, o.writes, o.passes, o.stays) for o in view.operators]
    assert flow == [
        ("w_stem", (), (stem,), (), None),
        ("w_in", (stem,), (inner,), (), None),
        ("w_deep", (), (), (inner,), None),
        ("w_out", (inner,), (stem,), (), None),
        ("w_head", (stem,), (), (), "graph output 'y'"),
    ]
    assert [len(o.blocks) for o in view.operators] == [0, 1, 1, 1, 0]
    assert sum(o.macs for o in view.operators) == view.total.macs


def test_heads_pass_through_attention(attention: Path) -> None:
    view = op.inspect(attention)

    scores, mixed = (o for o in view.operators if o.weight is None)
    heads, keys, values = range(3)
    assert (scores.reads, scores.writes, scores.passes) == ((keys,), (), (heads,))
    assert (mixed.reads, mixed.writes, mixed.passes) == ((), (), (heads, values))


def test_all_frozen_places_are_named(tmp_path: Path) -> None:
    text = "(float[N,4] x) => ({}) {{ {} }}"
    ends = ", ".join(f"float[N,4] y{i}" for i in range(6))
    nodes = " ".join(f"y{i} = MatMul(x, w{i})" for i in range(6))
    weights: dict[str, Any] = {f"w{i}": (4, 4) for i in range(6)}
    onnx.save(handmade(text.format(ends, nodes), **weights), tmp_path / "ends.onnx")

    view = op.inspect(tmp_path / "ends.onnx")

    assert sum(v.count for v in view.frozen) == 6
    assert {name for v in view.frozen for name in v.names} == set(weights)
    assert not view.groups
    assert "graph output 'y3'" in printed(overview_report(view), 80)


# -- tables and JSON ----------------------------------------------------------------------------
@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_tables_fit_the_line(network: str, width: int, tmp_path: Path) -> None:
    onnx.save(NETWORKS[network].model(), tmp_path / "m.onnx")

    view = op.inspect(tmp_path / "m.onnx")
    lines = printed(overview_report(view), width).splitlines()

    assert max(map(len, lines)) <= width
    text = "".join("".join(lines).split())
    assert all(g.name in text for g in view.groups)
    assert "…" not in text  # nothing is cut off


def test_json_has_everything(residual: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(residual), "--blocks", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)

    assert found == plain(op.inspect(residual, blocks=True))
    assert found["groups"][0]["places"][0]["tensor"] == "w_stem"
    assert found["operators"][1]["reads"] == [0]
    assert found["blocks"]["blocks"]


def test_one_group_on_the_command_line(residual: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(residual), "--group", "b_in"]) == 0
    assert "w_deep" in capsys.readouterr().out
    assert main(["inspect", str(residual), "--group", "b_in", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "w_in"
    assert main(["inspect", str(residual), "--group", "none"]) == 2
    assert "--group 'none' names no group" in capsys.readouterr().err


def published(folder: Path) -> Iterator[Path]:
    for name in ("ultraface_rfb_320", "cifar10_vit_ibp", "mnist_cntk", "imagenet_mobilenetv2_qdq"):
        yield folder / "onnx" / f"{name}.onnx"


def test_published_files_are_described(data_dir: Path) -> None:
    for path in published(data_dir):
        view = op.inspect(path, blocks=True)

        assert view.groups
        assert all(g.macs >= g.unit_macs > 0 for g in view.groups if g.readers)
        touched = {n for o in view.operators for n in (*o.reads, *o.writes, *o.passes)}
        assert touched <= set(range(len(view.groups)))
        assert max(map(len, printed(overview_report(view), 80).splitlines())) <= 80
        macs = np.array([o.macs for o in view.operators])
        assert macs.sum() == pytest.approx(view.total.macs)
