"""What is computed from shapes keeps its original value, whatever is removed; the rest is patched."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxprune.core.errors import ModelError
from onnxprune.core.graph import Graph
from onnxprune.core.input_shapes import input_shapes
from onnxprune.core.rules import OP_RULES
from onnxprune.core.shapes import infer
from onnxprune.passes.surgery.channels import remove_channels
from tests.examples import random_mask
from tests.handmade import examined, handmade, ints, members, proved


def test_the_root_of_a_head_size_is_frozen() -> None:
    """Sqrt(d) from Shape: attention is scaled by the original d, also when dimensions go."""
    analysis = proved(
        handmade(
            """(float[N,T,5] u) => (float[N,T,T] y) {
                q = MatMul(u, wq)
                k = MatMul(u, wk)
                shape = Shape(q)
                d = Gather(shape, last)
                real = Cast<to=1>(d)
                root = Sqrt(real)
                k1 = Transpose<perm=[0,2,1]>(k)
                s = MatMul(q, k1)
                y = Div(s, root)
            }""",
            wq=(5, 9), wk=(5, 9), last=np.array(-1),
        )
    )  # fmt: skip

    assert {n.op_type for n in analysis.graph.nodes} == {"MatMul", "Transpose", "Div"}
    assert float(analysis.graph.weights["root"].array) == 3.0
    assert {m.tensor for m in analysis.groups[0].members} == {"wq", "wk"}


def test_a_computed_head_count_is_frozen() -> None:
    """C // heads from Shape, batch and length computed: [N, T, 12] -> [N, T, 3, 4] and back."""
    analysis = proved(
        handmade(
            """(float[N,T,5] u) => (float[N,T,2] y) {
                a = MatMul(u, w1)
                shape = Shape(a)
                n = Slice(shape, i0, i1)
                t = Slice(shape, i1, i2)
                c = Slice(shape, i2, i3)
                d = Div(c, i3)
                split = Concat<axis=0>(n, t, i3, d)
                b = Reshape(a, split)
                e = Mul(b, scale)
                joined = Mul(i3, d)
                join = Concat<axis=0>(n, t, joined)
                f = Reshape(e, join)
                y = MatMul(f, w2)
            }""",
            w1=(5, 12), w2=(12, 2), scale=(3, 4), i0=ints(0), i1=ints(1), i2=ints(2), i3=ints(3),
        )
    )  # fmt: skip

    assert {len(group) for group in analysis.groups} == {3, 4}


def test_a_dynamic_batch_flows_past_what_shrinks() -> None:
    """View(x.size(0), -1): only the entry of the channels may change, the batch stays computed."""
    model = handmade(
        """(float[N,3,4,4] u) => (float[N,2] y) {
            a = Conv(u, w1, b1)
            shape = Shape(a)
            n = Gather(shape, first)
            n1 = Unsqueeze(n, axes)
            target = Concat<axis=0>(n1, rest)
            b = Reshape(a, target)
            y = Gemm<transB=1>(b, w2)
        }""",
        w1=(6, 3, 1, 1), b1=(6,), w2=(2, 96), first=np.array(0), axes=ints(0), rest=ints(96),
    )  # fmt: skip
    analysis = proved(model)
    pruned = remove_channels(random_mask(analysis, np.random.default_rng(0), 0.5))

    assert [len(group) for group in analysis.groups] == [6]
    assert [n.op_type for n in pruned.nodes].count("Where") >= 1


def test_batch_times_heads_is_one_axis_that_may_shrink() -> None:
    """Reshape [T, N, H*d] -> [T, N*H, d]: the entry is dynamic and shrinks at once."""
    proved(
        handmade(
            """(float[N,T,5] u) => (float[N,T,2] y) {
                a = MatMul(u, w1)
                t1 = Transpose<perm=[1,0,2]>(a)
                shape = Shape(u)
                n = Slice(shape, i0, i1)
                t = Slice(shape, i1, i2)
                nh = Mul(n, heads)
                split = Concat<axis=0>(t, nh, dim)
                b = Reshape(t1, split)
                c = Mul(b, scale)
                join = Concat<axis=0>(t, n, all)
                d = Reshape(c, join)
                e = Transpose<perm=[1,0,2]>(d)
                y = MatMul(e, w2)
            }""",
            w1=(5, 12), w2=(12, 2), scale=(4,), heads=ints(3), dim=ints(4), all=ints(12),
            i0=ints(0), i1=ints(1), i2=ints(2),
        )
    )  # fmt: skip


def test_a_table_read_by_position_is_not_taken_for_a_constant() -> None:
    """Range(0, T) looks like the constant 0..6 when T is seven; no row of the table may go."""
    analysis = proved(
        handmade(
            """(float[N,T,5] u) => (float[N,T,2] y) {
                shape = Shape(u)
                t = Gather(shape, at)
                positions = Range(zero, t, one)
                rows = Gather(table, positions)
                a = MatMul(u, w1)
                b = Add(a, rows)
                c = Tanh(b)
                y = MatMul(c, w2)
            }""",
            w1=(5, 6), w2=(6, 2), table=(12, 6),
            at=np.array(1), zero=np.array(0), one=np.array(1),
        )
    )  # fmt: skip

    assert members(analysis) == [{("w1", 1), ("table", 1), ("w2", 0)}]


def test_the_first_rows_of_a_table_are_sliced_at_a_computed_length() -> None:
    analysis = proved(
        handmade(
            """(float[N,T,5] u) => (float[N,T,2] y) {
                shape = Shape(u)
                t = Slice(shape, i1, i2)
                rows = Slice(table, i0, t, i0)
                a = MatMul(u, w1)
                b = Add(a, rows)
                y = MatMul(b, w2)
            }""",
            w1=(5, 6), w2=(6, 2), table=(12, 6), i0=ints(0), i1=ints(1), i2=ints(2),
        )
    )  # fmt: skip

    assert members(analysis) == [{("w1", 1), ("table", 1), ("w2", 0)}]


def test_an_image_of_any_size_is_pooled_and_flattened() -> None:
    analysis = proved(
        handmade(
            """(float[N,3,H,W] u) => (float[N,2] y) {
                a = Conv<strides=[2,2], kernel_shape=[3,3]>(u, w1, b1)
                b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
                c = GlobalAveragePool(b)
                d = Flatten(c)
                y = Gemm<transB=1>(d, w2)
            }""",
            w1=(6, 3, 3, 3), b1=(6,), w2=(2, 6),
        )
    )  # fmt: skip

    assert len(analysis.groups[0]) == 6


def test_images_too_small_for_their_kernels_are_tried_larger() -> None:
    analysis = examined(
        handmade(
            """(float[N,3,H,W] u) => (float[N,2,H2,W2] y) {
                a = Conv(u, w1)
                b = MaxPool<kernel_shape=[200,200]>(a)
                y = Conv(b, w2)
            }""",
            w1=(6, 3, 1, 1), w2=(2, 6, 1, 1),
        )
    )  # fmt: skip

    assert [len(group) for group in analysis.groups] == [6]


def test_a_kernel_larger_than_every_image_is_refused_in_one_line() -> None:
    model = handmade(
        """(float[N,3,H,W] u) => (float[N,3,H2,W2] y) {
            y = MaxPool<kernel_shape=[2000,2000]>(u)
        }"""
    )

    with pytest.raises(ModelError, match="give the inputs fixed shapes"):
        examined(model)


def test_constant_nodes_and_constant_arithmetic_are_folded() -> None:
    analysis = proved(
        handmade(
            """(float[N,3,8,8] u) => (float[N,2,8,8] y) {
                half = Constant<value=float {0.5}>()
                scaled = Mul(w1, half)
                turned = Transpose<perm=[1,0,2,3]>(scaled)
                a = Conv(u, turned, b1)
                two = Constant<value_ints=[0,2,3,8,8]>()
                b = Reshape(a, two)
                c = Mul(b, gains)
                back = Constant<value_ints=[0,6,8,8]>()
                d = Reshape(c, back)
                y = Conv(d, w2)
            }""",
            w1=(3, 6, 1, 1), b1=(6,), w2=(2, 6, 1, 1), gains=(2, 3, 1, 1),
        )
    )  # fmt: skip

    assert [n.op_type for n in analysis.graph.nodes] == [
        "Conv",
        "Reshape",
        "Mul",
        "Reshape",
        "Conv",
    ]
    assert {len(group) for group in analysis.groups} == {2, 3}


def test_what_has_no_known_shape_is_opaque_and_reported() -> None:
    analysis = proved(
        handmade(
            """(float[N,3,8,8] u) => (float[N,2,8,8] y, int64[4,M] z) {
                a = Conv(u, w1, b1)
                b = Conv(a, w2, b2)
                c = Relu(b)
                z = NonZero(c)
                y = Conv(a, w3)
            }""",
            w1=(6, 3, 1, 1), b1=(6,), w2=(4, 6, 1, 1), b2=(4,), w3=(2, 6, 1, 1),
        )
    )  # fmt: skip
    reasons = [r.opaque for r in analysis.records if r.opaque]

    assert reasons == ["NonZero cannot be described: the shape of 'z' is unknown"]
    assert {f.tensor: f.reason for f in analysis.frozen}["w2"] == reasons[0]
    assert {m.tensor for m in analysis.groups[0].members} == {"w1", "b1", "w2", "w3"}


def test_both_instances_agree_on_what_is_static_only() -> None:
    graph = Graph.from_model(
        handmade(
            """(float[N,3,H,8] u) => (float[N,3,H,8] y) {
                y = Relu(u)
            }"""
        )
    )
    shapes = infer(graph, OP_RULES.shape_functions)

    assert [shapes.static("u", axis) for axis in range(4)] == [False, True, False, True]
    assert [shapes.static("y", axis) for axis in range(4)] == [False, True, False, True]


def test_one_name_is_one_number() -> None:
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "t", 8]),
        helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n", 1, "t", "t"]),
        helper.make_tensor_value_info("other", TensorProto.FLOAT, ["t", None]),
    ]
    assert input_shapes(values, (2, 7, 64)) == {
        "x": (2, 7, 8),
        "mask": (2, 1, 7, 7),
        "other": (7, 7),
    }
