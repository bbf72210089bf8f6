"""Blocks left out: what remains, together with channels, and what the plan says of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.core.analysis import Mask
from onnxprune.core.contracts import SURGERIES
from onnxprune.core.errors import InternalError, OnnxPruneError, ProofError
from onnxprune.core.graph import Graph
from onnxprune.files.store import digest, save
from onnxprune.files.store import load as load_file
from onnxprune.plan import (
    ModelId,
    Plan,
    Step,
    depth_of,
    mask_of,
    plan_of,
    read_plan,
    verify_plan,
    write_plan,
)
from onnxprune.plan.recheck import verify
from onnxprune.proof.prove import prove
from onnxprune.structure.blocks import find_blocks
from onnxprune.structure.dependency import analyse
from tests.examples import random_mask
from tests.handmade import examined, handmade
from tests.streams import (
    FEED_FORWARD,
    FUSED,
    NO_UNITS,
    TWO,
    all_proved,
    long_skip,
    plain,
    removed,
    spans,
    stack,
)

# -- leaving them out -------------------------------------------------------------------------------


def test_an_end_that_is_a_graph_output_keeps_its_name() -> None:
    model = handmade(
        f"""(float[N,T,8] x) => (float[N,T,8] s, float[N,T,8] z) {{
            {FEED_FORWARD}
            s = Add(x, c)
            d = MatMul(s, w3)
            z = Add(s, d)
        }}""",
        w3=(8, 8), **TWO,
    )  # fmt: skip
    first, second = all_proved(model)
    analysis = examined(model)
    both = removed(analysis, first, second)

    assert {(n.op_type, *n.input, *n.output) for n in both.nodes} == {
        ("Identity", "x", "s"), ("Identity", "x", "z"),
    }  # fmt: skip
    assert [v.name for v in both.outputs] == ["s", "z"]


def test_an_end_that_a_body_reads_keeps_its_name() -> None:
    model = handmade(
        f"""(float[N,T,8] x, bool flag) => (float[N,T,8] y) {{
            {FEED_FORWARD}
            s = Add(x, c)
            y = If (flag) <
                then_branch = yes () => (float[N,T,8] p) {{ p = Neg(s) }},
                else_branch = no () => (float[N,T,8] q) {{ q = Relu(s) }}
            >
        }}""",
        **TWO,
    )

    assert len(all_proved(model)) == 1


def test_what_a_body_reads_leaks() -> None:
    model = handmade(
        f"""(float[N,T,8] x, bool flag) => (float[N,T,8] y) {{
            {FEED_FORWARD}
            s = Add(x, c)
            t = If (flag) <
                then_branch = yes () => (float[N,T,8] p) {{ p = Neg(c) }},
                else_branch = no () => (float[N,T,8] q) {{ q = Relu(c) }}
            >
            y = Mul(s, t)
        }}""",
        **TWO,
    )

    assert spans(model) == []


def test_notes_of_what_is_gone_go_and_lengths_stay_open() -> None:
    model = onnx.shape_inference.infer_shapes(plain(FEED_FORWARD + "s = Add(x, c)", **TWO))
    assert {v.name for v in model.graph.value_info} == {"x", "a", "b", "c", "s"}
    analysis = examined(model)
    left = removed(analysis, *find_blocks(analysis)).to_model()

    assert {v.name for v in left.graph.value_info} == {"x"}
    assert [d.dim_param for d in left.graph.output[0].type.tensor_type.shape.dim] == ["N", "T", ""]


def test_blocks_and_channels_together(rng: np.random.Generator) -> None:
    graph = Graph.from_model(long_skip())
    analysis = analyse(graph)
    for block in find_blocks(analysis):
        mask = random_mask(analysis, rng, 0.4)
        mask = dataclasses.replace(mask, blocks=(block,))

        assert prove(graph, mask, SURGERIES["blocks"](mask)).moved > 1e-3


def test_width_after_depth() -> None:
    """What is left is a model like any other."""
    graph = Graph.from_model(stack(FUSED, post=True, depth=3))
    analysis = analyse(graph)
    first = next(b for b in find_blocks(analysis) if b.kind == "post-norm")
    shallow = removed(analysis, first)

    narrow = analyse(shallow)
    mask = random_mask(narrow, np.random.default_rng(0), 0.5)
    assert prove(shallow, mask, SURGERIES["channels"](mask)).moved > 1e-3
    assert len(find_blocks(narrow)) == len(find_blocks(analysis)) - 2


def test_a_block_of_another_graph_is_refused() -> None:
    (block,) = find_blocks(examined(plain(FEED_FORWARD + "s = Add(x, c)", **TWO)))
    other = examined(plain("s = Relu(x)"))

    with pytest.raises(InternalError, match="no block from 'x' to 'zz'"):
        removed(other, dataclasses.replace(block, y="zz"))


def test_a_wrong_bypass_is_noticed() -> None:
    model = plain(
        FEED_FORWARD + "d = Sigmoid(x)\ns = Add(x, c)\ne = Mul(s, d)",
        ends="y = MatMul(e, w9)",
        **TWO,
    )
    graph = Graph.from_model(model)
    analysis = analyse(graph)
    (block,) = find_blocks(analysis)
    wrong = removed(analysis, dataclasses.replace(block, x="d"))

    with pytest.raises(ProofError, match="first at tensor"):
        prove(graph, analysis.mask(NO_UNITS, (block,)), wrong)


# -- the plan ---------------------------------------------------------------------------------------


def deep_plan(depth: Mask, mask: Mask, file: Path) -> Plan:
    """The plan of blocks left out of a file, then of channels removed from what remains."""
    model = ModelId(file.name, digest(file))
    return plan_of(mask, model=model, criterion=Step("random"), selection={}, depth=depth)


def test_a_plan_says_which_blocks_go_and_finds_them_again(tmp_path: Path) -> None:
    original, pruned, file = (tmp_path / name for name in ("a.onnx", "b.onnx", "plan.json"))
    onnx.save(stack(FUSED, post=True, depth=3), original)
    analysis = analyse(load_file(original))
    block = next(b for b in find_blocks(analysis) if (b.x, b.y) == ("n0", "n1"))
    depth = analysis.mask(NO_UNITS, (block,))
    shallow = analyse(SURGERIES["blocks"](depth))
    mask = random_mask(shallow, np.random.default_rng(0), 0.5)
    save(SURGERIES["channels"](mask), pruned)
    write_plan(deep_plan(depth, mask, original), file)

    plan = read_plan(file)
    (planned,) = plan.blocks
    assert (planned.x, planned.y) == ("n0", "n1")
    assert planned.weights == {"v1": (8, 12), "w1": (12, 8), "n1s": (8,), "n1b": (8,)}
    assert not planned.weights.keys() & plan.tensors.keys()
    assert depth_of(analyse(load_file(original)), plan).blocks == (block,)
    assert verify_plan(load_file(pruned), plan) == []
    assert "block 'n1' is still there" in verify_plan(load_file(original), plan)
    proof = verify(pruned, file, original=original).proof
    assert proof is not None
    assert proof.moved > 1e-3
    with pytest.raises(OnnxPruneError, match="the plan leaves out block 'n1' before"):
        mask_of(analysis, plan)
    with pytest.raises(OnnxPruneError, match="there is no block 'n1'"):
        depth_of(examined(plain("s = Relu(x)")), plan)


def test_weights_that_others_share_do_not_go(tmp_path: Path) -> None:
    """Two blocks with one bias: it stays with the other."""
    model = plain(
        """a = MatMul(x, w1)
        b = Add(a, bias)
        s1 = Add(x, b)
        c = MatMul(s1, w2)
        d = Add(c, bias)
        s = Add(s1, d)""",
        w1=(8, 8), w2=(8, 8), bias=(8,),
    )  # fmt: skip
    onnx.save(model, tmp_path / "a.onnx")
    analysis = analyse(load_file(tmp_path / "a.onnx"))
    first, second = find_blocks(analysis)
    for blocks, lost in [((first,), [{"w1"}]), ((first, second), [{"w1", "bias"}, {"w2", "bias"}])]:
        depth = analysis.mask(NO_UNITS, blocks)
        rest = analyse(SURGERIES["blocks"](depth)).mask(NO_UNITS)
        plan = deep_plan(depth, rest, tmp_path / "a.onnx")
        assert [set(b.weights) for b in plan.blocks] == lost
