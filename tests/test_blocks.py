"""What counts as a block: every clause on a graph of its own."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from onnxprune.core.blocks import Block
from onnxprune.core.cost import CostModel
from onnxprune.core.graph import Graph
from onnxprune.proof.example import example, instance_of
from onnxprune.structure.blocks import find_blocks
from onnxprune.structure.dependency import analyse
from onnxprune.structure.layers import period
from tests.handmade import examined, handmade
from tests.streams import (
    FEED_FORWARD,
    FUSED,
    NORMS,
    TWO,
    all_proved,
    long_skip,
    plain,
    removed,
    spans,
    stack,
)

# -- what is a block --------------------------------------------------------------------------------


def test_a_region_that_adds_to_a_tensor() -> None:
    model = plain(FEED_FORWARD + "s = Add(x, c)", **TWO)
    graph = Graph.from_model(model)
    analysis = analyse(graph)
    cost = CostModel(analysis, instance_of(analysis.graph, example(graph)))
    (block,) = find_blocks(analysis, cost)

    assert block == Block(
        name="s", kind="residual", x="x", y="s", nodes=(1, 2, 3, 4), added=((4, 1),), sides=(),
        weights=("w1", "w2"), params=2 * 8 * 12, macs=64 * 2 * 8 * 12,
    )  # fmt: skip
    assert [n.op_type for n in removed(analysis, block).nodes] == ["MatMul", "MatMul"]
    assert set(removed(analysis, block).weights) == {"w0", "w9"}
    assert all_proved(model)


@pytest.mark.parametrize("total", ["Add(x, c)", "Add(c, x)", "Sum(c, x)", "Sum(x, c, b8)"])
def test_sums_in_any_order(total: str) -> None:
    more: dict[str, Any] = {"b8": (8,)} if "b8" in total else {}
    model = plain(FEED_FORWARD + f"s = {total}", **TWO, **more)

    assert spans(model) == [("x", "s")]
    assert all_proved(model)


ATTENTION = """
    q = MatMul(x, wq)
    k = MatMul({keys}, wk)
    v = MatMul({keys}, wv)
    kt = Transpose<perm=[0,2,1]>(k)
    scores = MatMul(q, kt)
    {masked}
    p = Softmax(masked)
    a = MatMul(p, v)
    c = MatMul(a, wo)
    s = Add(x, c)
"""
FOUR: dict[str, Any] = {"wq": (8, 8), "wk": (8, 8), "wv": (8, 8), "wo": (8, 8)}


def test_a_mask_comes_from_the_side() -> None:
    """So x does not dominate y, and yet it is a block."""
    body = ATTENTION.format(keys="x", masked="masked = Add(scores, mask)")
    (block,) = all_proved(plain(body, **FOUR))

    assert block.sides == ("mask",)


def test_what_only_serves_a_side_entry_goes_too() -> None:
    """Keys and values of another sequence: their weights are the block's."""
    body = ATTENTION.format(keys="memory", masked="masked = Identity(scores)")
    (block,) = all_proved(plain(body, **FOUR))

    assert block.sides == ("memory",)
    assert block.weights == ("wq", "wk", "wv", "wo")


def test_a_side_entry_that_others_read_stays() -> None:
    body = """
        n = MatMul(memory, wn)
        g = GlobalAveragePool(n)
        t = MatMul(x, w1)
        b = Mul(t, g)
        c = MatMul(b, w2)
        s = Add(x, c)
    """
    model = plain(body, ends="h = Mul(s, g)\ny = MatMul(h, w9)", wn=(8, 8), w1=(8, 8), w2=(8, 8))
    analysis = examined(model)
    (block,) = find_blocks(analysis)

    assert block.sides == ("g",)
    assert "wn" in removed(analysis, block).weights


LEAKS = {
    "a tensor inside is read outside": ("s = Add(x, c)", "h = Mul(s, c)\ny = MatMul(h, w9)"),
    "the tensor that is added is read outside": (
        "s = Add(x, c)",
        "h = ReduceMean<axes=[1]>(c)\nk = Mul(s, h)\ny = MatMul(k, w9)",
    ),
    "what it reads from the side follows from x": (
        "d = Sigmoid(x)\ne = Mul(c, d)\ns = Add(x, e)",
        "h = Mul(s, d)\ny = MatMul(h, w9)",
    ),
    "nothing of it follows from x": (
        "d = MatMul(u, w1)\ne = Relu(d)\nf = MatMul(e, w2)\ns = Add(x, f)",
        "y = MatMul(s, w9)",
    ),
    "x is projected": ("d = MatMul(x, w3)\ns = Add(d, c)", "y = MatMul(s, w9)"),
    "the branch is narrower": (
        "d = ReduceMean<axes=[1]>(c)\ns = Add(x, d)",
        "y = MatMul(s, w9)",
    ),
    "it is a difference": ("s = Sub(x, c)", "y = MatMul(s, w9)"),
}


@pytest.mark.parametrize("why", LEAKS)
def test_no_block(why: str) -> None:
    body, ends = LEAKS[why]
    weights = {**TWO, **({"w3": (8, 8)} if "w3" in body else {})}
    model = handmade(
        f"""(float[N,T,8] u) => (float[N,T,3] y) {{
            x = MatMul(u, w0)
            {FEED_FORWARD}
            {body}
            {ends}
        }}""",
        opset=17, w0=(8, 8), w9=(8, 3), **weights,
    )  # fmt: skip

    assert spans(model) == []


def test_two_x_and_a_branch() -> None:
    """In x + (x + c) the inner sum is a block, the outer is not x plus something else."""
    assert spans(plain(FEED_FORWARD + "d = Add(x, c)\ns = Add(x, d)", **TWO)) == [("x", "d")]


def test_a_tensor_inside_that_is_a_graph_output() -> None:
    text = f"""(float[N,T,8] x) => (float[N,T,8] s{{more}}) {{
        {FEED_FORWARD}
        s = Add(x, c)
    }}"""

    assert spans(handmade(text.replace("{{", "{").replace("{more}", ""), **TWO)) == [("x", "s")]
    assert spans(handmade(text.replace("{more}", ", float[N,T,12] b"), **TWO)) == []


WEIGHTLESS = {
    "an epsilon": "s = Add(x, tiny)",
    "a table": "s = Add(x, table)",
    "a function of x alone": "a = Sigmoid(x)\nb = Mul(a, x)\ns = Add(x, b)",
    "scores of x with itself": (
        "a = Transpose<perm=[0,2,1]>(x)\nb = MatMul(x, a)\nc = MatMul(b, x)\ns = Add(x, c)"
    ),
}


@pytest.mark.parametrize("what", WEIGHTLESS)
def test_without_weights_nothing_is_a_block(what: str) -> None:
    more: dict[str, Any] = {}
    if "tiny" in WEIGHTLESS[what]:
        more["tiny"] = np.array(1e-5, np.float32)
    if "table" in WEIGHTLESS[what]:
        more["table"] = (1, 1, 8)

    assert spans(plain(WEIGHTLESS[what], **more)) == []


def test_a_size_of_x_is_no_value_of_x() -> None:
    """The number of positions is read off x, and what follows from it is used by others too."""
    body = """
        shape = Shape(x)
        long = Gather(shape, one)
        count = Cast<to=1>(long)
        a = MatMul(x, w1)
        b = Div(a, count)
        c = MatMul(b, w2)
        s = Add(x, c)
    """
    ends = "h = Div(s, count)\ny = MatMul(h, w9)"
    (block,) = all_proved(plain(body, ends=ends, one=np.array(1), **TWO))

    assert block.sides == ("count",)


def test_branches_side_by_side() -> None:
    """In x + attention(n) + mlp(n) neither branch alone, as they share n."""
    body = """
        n = LayerNormalization(x, s1)
        a = MatMul(n, w1)
        d = Add(x, a)
        b = MatMul(n, w2)
        c = Relu(b)
        e = MatMul(c, w3)
        s = Add(d, e)
    """
    model = plain(body, s1=(8,), w1=(8, 8), w2=(8, 12), w3=(12, 8))
    (block,) = all_proved(model)

    assert (block.x, block.y) == ("x", "s")
    assert len(block.added) == 2


def test_a_table_added_to_a_stream_is_no_stream() -> None:
    """In pos + stream: without the stream the table would be left."""
    body = """
        pos = MatMul(mask, u)
        d = Add(x, pos)
        a = MatMul(d, w1)
        e = Add(d, a)
        f = Add(e, pos)
        b = MatMul(f, w2)
        s = Add(f, b)
    """

    assert spans(plain(body, w1=(8, 8), w2=(8, 8))) == [("d", "e"), ("f", "s")]


# -- norms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_a_normalised_sum_is_a_block(norm: str) -> None:
    blocks = all_proved(stack(NORMS[norm], post=True))

    found = {(b.kind, b.x, b.y): b for b in blocks}
    assert set(found) == {
        ("post-norm", "x", "n0"), ("residual", "x", "s0"),
        ("post-norm", "n0", "n1"), ("residual", "n0", "s1"),
    }  # fmt: skip
    assert found["residual", "n0", "s1"].parent == found["post-norm", "n0", "n1"].name
    assert found["residual", "n0", "s1"].level == 1


@pytest.mark.parametrize("norm", NORMS)
def test_the_norm_before_the_head_is_none(norm: str) -> None:
    """What follows needs it, and the stream is not normalised anywhere else."""
    blocks = all_proved(stack(NORMS[norm], post=False))

    assert [(b.kind, b.x, b.y) for b in blocks] == [
        ("residual", "x", "s0"),
        ("residual", "s0", "s1"),
    ]


def test_a_norm_that_adds_first() -> None:
    model = handmade(
        """(float[N,T,8] u) => (float[N,T,3] y) {
            x = LayerNormalization(u, s0)
            a = MatMul(x, w1)
            n = com.microsoft.SkipLayerNormalization(x, a, s1, b1)
            b = MatMul(n, w2)
            m = com.microsoft.SkipLayerNormalization(b, n, s2, b2)
            y = MatMul(m, w3)
        }""",
        s0=(8,), w1=(8, 8), s1=(8,), b1=(8,), w2=(8, 8), s2=(8,), b2=(8,), w3=(8, 3),
    )  # fmt: skip

    assert [(b.x, b.y) for b in all_proved(model)] == [("x", "n"), ("n", "m")]


# -- blocks in blocks, and in a row -----------------------------------------------------------------


def test_a_block_in_a_block() -> None:
    outer, first, second = all_proved(long_skip())

    assert [(b.x, b.y, b.level) for b in (outer, first, second)] == [
        ("x", "s", 0), ("x", "c", 1), ("c", "e", 1),
    ]  # fmt: skip
    assert (first.parent, second.parent) == (outer.name, outer.name)


def test_the_larger_of_two_blocks_goes() -> None:
    graph = Graph.from_model(long_skip())
    analysis = analyse(graph)
    outer, first, _ = find_blocks(analysis)

    for chosen in ((outer, first), (first, outer)):
        assert [n.op_type for n in removed(analysis, *chosen).nodes] == ["Conv", "Conv"]


def test_the_shortest_period() -> None:
    assert [period(text) for text in ("ababab", "aaaa", "abcabc", "abcab", "abca", "a", "")] == [
        2, 1, 3, 0, 0, 0, 0,
    ]  # fmt: skip


def test_what_repeats_is_a_layer() -> None:
    """Two kinds of blocks in turn, after a first one that leaks: layers are counted from the end."""
    weights: dict[str, Any] = {"w_in": (8, 8), "w_out": (8, 3)}
    lines, now = ["x = MatMul(u, w_in)"], "x"
    for i, width in enumerate([12, 10, 12, 10, 12]):
        weights |= {f"v{i}": (8, width), f"w{i}": (width, 8)}
        lines += [f"a{i} = MatMul({now}, v{i})", f"c{i} = MatMul(a{i}, w{i})"]
        lines.append(f"s{i} = Add({now}, c{i})")
        now = f"s{i}"
    text = "\n".join(lines)
    model = handmade(
        f"""(float[N,8] u) => (float[N,3] y) {{
            {text}
            y = MatMul({now}, w_out)
        }}""",
        **weights,
    )
    blocks = all_proved(model)

    layers = {(b.x, b.y): b.parts for b in blocks if b.parts}
    assert layers == {("s0", "s2"): ("s1", "s2_1"), ("s2", "s4"): ("s3", "s4_1")}
    assert {b.name: b.parent for b in blocks if b.name in ("s1", "s2_1")} == {
        "s1": "s2", "s2_1": "s2",
    }  # fmt: skip


def test_blocks_of_a_deep_network_are_found_soon() -> None:
    """2,000 blocks in 10,000 nodes; by far fewer seconds would do on a machine of one's own."""
    model = stack(FUSED, post=False, depth=2000)
    analysis = examined(model)
    start = time.process_time()
    blocks = find_blocks(analysis)

    assert len(blocks) == 2000
    assert time.process_time() - start < 5
