"""Corner cases of removal: nodes that list positions or lengths, in every form ONNX had for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

from onnxprune.core.analysis import Analysis, Mask
from onnxprune.core.errors import InternalError
from onnxprune.core.graph import Graph
from onnxprune.passes.surgery.channels import remove_channels
from tests.handmade import examined, groups_of, handmade, ints, members, proved


def without(analysis: Analysis, tensor: str, *positions: int) -> ModelProto:
    """The model without the units that own these positions of a weight's first axis."""
    units = [
        unit
        for group in groups_of(analysis, tensor)
        for member in group.members
        if (member.tensor, member.axis) == (tensor, 0)
        for unit, owned in zip(group.units, member.index, strict=True)
        if set(owned.tolist()) <= set(positions)
    ]
    return remove_channels(analysis.mask(np.array(units))).to_model()


def only(model: ModelProto, op_type: str) -> onnx.NodeProto:
    nodes: list[onnx.NodeProto] = [n for n in model.graph.node if n.op_type == op_type]

    assert len(nodes) == 1
    return nodes[0]


def value(model: ModelProto, name: str) -> list[int]:
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    values: list[int] = onnx.numpy_helper.to_array(tensor).tolist()
    return values


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


# -- option A: a shortcut without weights -----------------------------------------------------------


def option_a(opset: int) -> ModelProto:
    """A residual block that doubles the channels: x[:, :, ::2, ::2] between two new ones each side."""
    if opset >= 11:
        pad, slices = "Pad(s, pads)", "Slice(a, starts, ends, axes, steps)"
        constants: dict[str, Any] = {
            "pads": ints(0, 2, 0, 0, 0, 2, 0, 0), "starts": ints(0, 0), "ends": ints(99, 99),
            "axes": ints(2, 3), "steps": ints(2, 2),
        }  # fmt: skip
    else:
        pad, slices = (
            "Pad<pads=[0,2,0,0,0,2,0,0]>(s)",
            "MaxPool<kernel_shape=[1,1], strides=[2,2]>(a)",
        )
        constants = {}
    return handmade(
        f"""(float[N,3,8,8] u) => (float[N,2] y) {{
            a = Conv(u, stem, b1)
            s = {slices}
            short = {pad}
            b = Conv<pads=[1,1,1,1], strides=[2,2]>(a, w1, b2)
            c = Relu(b)
            d = Conv<pads=[1,1,1,1]>(c, w2, b3)
            e = Add(short, d)
            f = Relu(e)
            g = GlobalAveragePool(f)
            h = Flatten(g)
            y = Gemm<transB=1>(h, w3, b4)
        }}""",
        opset=opset, stem=(4, 3, 1, 1), b1=(4,), w1=(8, 4, 3, 3), b2=(8,), w2=(8, 8, 3, 3), b3=(8,),
        w3=(2, 8), b4=(2,), **constants,
    )  # fmt: skip


@pytest.mark.parametrize("opset", [9, 11, 18, 21])
def test_option_a_shortcut(opset: int) -> None:
    """The old channels run through; the four new ones are the block's own and go one by one."""
    analysis = proved(option_a(opset))

    sizes = {tuple(sorted(m.tensor for m in g.members)): len(g) for g in analysis.groups}
    assert sizes == {
        ("b1", "b3", "stem", "w1", "w2", "w3"): 4,
        ("b2", "w1", "w2"): 8,
        ("b3", "w2", "w3"): 4,
    }


def test_the_padding_of_option_a_follows_what_is_kept() -> None:
    analysis = examined(option_a(18))
    new = next(g for g in analysis.groups if {m.tensor for m in g.members} == {"b3", "w2", "w3"})
    first_and_last = analysis.mask(new.units[[0, 3]])
    pruned = remove_channels(first_and_last).to_model()

    assert value(pruned, only(pruned, "Pad").input[1]) == [0, 1, 0, 0, 0, 1, 0, 0]


# -- positions ------------------------------------------------------------------------------------


def sliced(start: int, end: int, step: int, *, count: int, opset: int = 18) -> ModelProto:
    return handmade(
        """(float[N,3,4,4] u) => (float[N,2,4,4] y) {
            a = Conv(u, w1, b1)
            b = Slice(a, start, end, axis, step)
            y = Conv(b, w2)
        }""",
        opset=opset, w1=(8, 3, 1, 1), b1=(8,), w2=(2, count, 1, 1), start=ints(start), end=ints(end),
        axis=ints(1), step=ints(step),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("start", "end", "step", "count"),
    [(1, 7, 1, 6), (0, 8, 2, 4), (-3, 2**62, 1, 3), (7, -99, -1, 8), (-2, 0, -3, 2), (1, -1, 1, 6)],
)
def test_slices_of_channels(start: int, end: int, step: int, count: int) -> None:
    proved(sliced(start, end, step, count=count), draws=6)


def test_a_slice_stays_a_slice_where_it_can() -> None:
    analysis = examined(sliced(1, 7, 1, count=6))
    pruned = without(analysis, "w1", 2, 5)
    node = only(pruned, "Slice")

    assert [value(pruned, name) for name in node.input[1:]] == [[1], [5], [1], [1]]


def test_a_slice_becomes_a_gather_where_it_must() -> None:
    """0 2 4 6 of eight, without 1 and 4, is 0 1 4 of six: no regular run."""
    analysis = examined(sliced(0, 8, 2, count=4))
    pruned = without(analysis, "w1", 1, 4)

    assert [n.op_type for n in pruned.graph.node] == ["Conv", "Slice", "Gather", "Conv"]
    assert value(pruned, only(pruned, "Gather").input[1]) == [0, 1, 4]


def test_a_gather_keeps_the_type_and_order_of_its_index() -> None:
    analysis = examined(
        handmade(
            """(float[N,3,4,4] u) => (float[N,2,4,4] y) {
                a = Conv(u, w1, b1)
                b = Gather<axis=1>(a, index)
                y = Conv(b, w2)
            }""",
            w1=(4, 3, 1, 1), b1=(4,), w2=(2, 4, 1, 1), index=np.array([3, -4, 2, 1], np.int32),
        )
    )  # fmt: skip
    pruned = without(analysis, "w1", 1)
    (index,) = (t for t in pruned.graph.initializer if t.name == only(pruned, "Gather").input[1])

    assert index.data_type == onnx.TensorProto.INT32
    assert value(pruned, index.name) == [2, 0, 1]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (-1, -2), (2, -1), (-3, 0)])
def test_channels_padded_and_cropped(before: int, after: int) -> None:
    proved(
        handmade(
            """(float[N,3,4,4] u) => (float[N,2,4,4] y) {
                a = Conv(u, w1, b1)
                b = Pad(a, pads, half)
                y = Conv(b, w2)
            }""",
            w1=(6, 3, 1, 1), b1=(6,), w2=(2, 6 + before + after, 1, 1),
            pads=ints(0, before, 0, 0, 0, after, 0, 0), half=np.array(0.5, np.float32),
        ),
        draws=6,
    )  # fmt: skip


# -- lengths --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "opset"),
    [
        ("Split<axis=1>(a)", 9),
        ("Split<axis=1, split=[3,3]>(a)", 11),
        ("Split<axis=1>(a)", 13),
        ("Split<axis=1>(a, lengths)", 13),
        ("Split<axis=1, num_outputs=2>(a)", 18),
        ("Split<axis=1>(a, lengths)", 21),
    ],
)
def test_pieces_of_a_split_in_every_form(text: str, opset: int) -> None:
    given: dict[str, Any] = {"lengths": ints(3, 3)} if "lengths" in text else {}
    proved(
        handmade(
            f"""(float[N,3,4,4] u) => (float[N,2,4,4] y, float[N,2,4,4] z) {{
                a = Conv(u, w1, b1)
                b, c = {text}
                y = Conv(b, w2)
                z = Conv(c, w3)
            }}""",
            opset=opset, w1=(6, 3, 1, 1), b1=(6,), w2=(2, 3, 1, 1), w3=(2, 3, 1, 1), **given,
        )
    )  # fmt: skip


def test_equal_pieces_that_are_equal_no_longer_list_their_lengths() -> None:
    analysis = examined(
        handmade(
            """(float[N,3,4,4] u) => (float[N,2,4,4] y, float[N,2,4,4] z) {
                a = Conv(u, w1, b1)
                b, c = Split<axis=1, num_outputs=2>(a)
                y = Conv(b, w2)
                z = Conv(c, w3)
            }""",
            w1=(6, 3, 1, 1), b1=(6,), w2=(2, 3, 1, 1), w3=(2, 3, 1, 1),
        )
    )  # fmt: skip
    units = next(
        g for g in analysis.groups if ("w2", 1) in {(m.tensor, m.axis) for m in g.members}
    ).units
    pruned = remove_channels(analysis.mask(units[:1])).to_model()
    node = only(pruned, "Split")

    assert value(pruned, node.input[1]) == [2, 3]
    assert attributes(node) == {"axis": 1}


def test_group_counts_are_written() -> None:
    analysis = examined(
        handmade(
            """(float[N,3,4,4] u) => (float[N,2,4,4] y) {
                a = Conv(u, w1, b1)
                b = Conv<group=6>(a, w2, b2)
                y = Conv(b, w3)
            }""",
            w1=(6, 3, 1, 1), b1=(6,), w2=(6, 1, 1, 1), b2=(6,), w3=(2, 6, 1, 1),
        )
    )  # fmt: skip
    pruned = without(analysis, "w1", 0, 4)

    assert [attributes(n).get("group") for n in pruned.graph.node] == [None, 4, None]


# -- old forms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [7, 8, 9])
def test_attributes_that_later_became_operands(opset: int) -> None:
    """Slice, Pad, Squeeze, Unsqueeze, Clip, Upsample, ReduceSum and Softmax before opset 10."""
    upsample = "Upsample<scales=[1.0,1.0,2.0,2.0]>(g)" if opset < 9 else "Upsample(g, scales)"
    given: dict[str, Any] = {} if opset < 9 else {"scales": np.array([1, 1, 2, 2], np.float32)}
    proved(
        handmade(
            f"""(float[N,3,8,8] u) => (float[N,2,16,16] y) {{
                a = Conv(u, w1, b1)
                b = BatchNormalization(a, scale, bias, mean, var)
                c = Clip<min=-2.0, max=2.0>(b)
                d = Slice<axes=[1], starts=[1], ends=[-1]>(c)
                e = Pad<pads=[0,1,0,0,0,1,0,0], value=0.5>(d)
                s = ReduceSum<axes=[1], keepdims=0>(e)
                s1 = Unsqueeze<axes=[1]>(s)
                g = Mul(e, s1)
                h = {upsample}
                y = Conv(h, w2)
            }}""",
            opset=opset, w1=(6, 3, 1, 1), b1=(6,), w2=(2, 6, 1, 1), scale=(6,), bias=(6,), mean=(6,),
            var=(6,), **given,
        )
    )  # fmt: skip


def test_softmax_of_old_opsets_flattens_from_its_axis_on() -> None:
    text = """(float[N,3,4,4] u) => (float[N,2,4,4] y) {
        a = Conv(u, w1, b1)
        b = Softmax<axis=2>(a)
        y = Conv(b, w2)
    }"""
    weights: dict[str, Any] = {"w1": (6, 3, 1, 1), "b1": (6,), "w2": (2, 6, 1, 1)}

    assert len(proved(handmade(text, opset=11, **weights)).groups) == 1
    assert len(proved(handmade(text, opset=13, **weights)).groups) == 1
    first = examined(handmade(text.replace("axis=2", "axis=1"), opset=11, **weights))
    assert {f.tensor: f.reason for f in first.frozen}["w1"] == "Softmax works along it"


# -- what is left alone -----------------------------------------------------------------------------


def test_an_op_nobody_knows_protects_what_it_touches_and_is_reported() -> None:
    analysis = examined(
        handmade(
            """(float[N,3,4,4] u) => (float[N,2,4,4] y) {
                a = Conv(u, w1, b1)
                b = my.domain.Mystery(a)
                c = Conv(b, w2, b2)
                y = Conv(c, w3)
            }""",
            w1=(6, 3, 1, 1), b1=(6,), w2=(4, 6, 1, 1), b2=(4,), w3=(2, 4, 1, 1),
        )
    )  # fmt: skip
    reason = "no rule for op my.domain::Mystery"

    assert reason in [r.opaque for r in analysis.records]
    assert {f.tensor: f.reason for f in analysis.frozen}["w1"] == reason


def test_channels_that_could_only_go_all_at_once_stay() -> None:
    analysis = proved(
        handmade(
            """(float[N,3,4,4] u) => (float[N,2,4,4] y) <int64[4] next = {1,2,3,0}> {
                a = Conv(u, w1, b1)
                b = Gather<axis=1>(a, next)
                c = Add(a, b)
                d = Conv(c, w2, b2)
                y = Conv(d, w3)
            }""",
            w1=(4, 3, 1, 1), b1=(4,), w2=(5, 4, 1, 1), b2=(5,), w3=(2, 5, 1, 1),
        )
    )  # fmt: skip

    assert members(analysis) == [{("w2", 0), ("b2", 0), ("w3", 1)}]
    reason = "its channels could only go all at once"
    assert {f.tensor: f.reason for f in analysis.frozen}["w1"] == reason


def test_a_body_that_reads_an_outer_tensor_protects_it() -> None:
    model = handmade(
        """(float[N,3,4,4] u, bool flag, float[N,6,4,4] start) => (float[N,2,4,4] y) {
            a = Conv(u, w1, b1)
            b = Loop(times, flag, start) <
                body = once (int64 n, bool go, float[N,6,4,4] s)
                    => (bool on, float[N,6,4,4] t)
                    { on = Identity(go) e = Mul(a, gain) t = Add(s, e) }
            >
            c = Conv(a, w2, b2)
            d = Conv(c, w3, b3)
            f = Conv(b, w4)
            y = Add(d, f)
        }""",
        w1=(6, 3, 1, 1), b1=(6,), gain=(6, 1, 1), w2=(4, 6, 1, 1), b2=(4,), w3=(2, 4, 1, 1), b3=(2,),
        w4=(2, 6, 1, 1), times=np.array(2, np.int64),
    )  # fmt: skip
    analysis = proved(model)

    assert members(analysis) == [{("w2", 0), ("b2", 0), ("w3", 1)}]
    reasons = {f.tensor: f.reason for f in analysis.frozen}
    assert reasons["w1"] == "read or made by Loop 'b', which has a body"


def test_a_mask_that_empties_an_axis_is_refused() -> None:
    analysis = examined(sliced(1, 7, 1, count=6))
    everything = analysis.mask(np.arange(analysis.unit_count))

    with pytest.raises(InternalError, match="leaves no position on axis"):
        remove_channels(everything)


def test_a_mask_that_removes_what_stays_is_refused() -> None:
    analysis = examined(
        handmade(
            """(float[N,3,4,4] u) => (float[N,2,4,4] y) {
                a = Conv(u, w1)
                b, c = Split<axis=1>(a, lengths)
                d = Softmax<axis=1>(b)
                e = Concat<axis=1>(d, c)
                y = Conv(e, w2)
            }""",
            w1=(6, 3, 1, 1), w2=(2, 6, 1, 1), lengths=ints(2, 4),
        )
    )  # fmt: skip
    removed = np.zeros(len(analysis.solution.component), bool)
    removed[np.flatnonzero(analysis.solution.stays[analysis.solution.component])[0]] = True

    with pytest.raises(InternalError, match="removes positions that stay"):
        remove_channels(Mask(analysis, removed))


def test_shape_notes_of_the_file_follow() -> None:
    model = handmade(
        """(float[N,3,4,4] u) => (float[N,2,4,4] y) <float[N,6,4,4] a> {
            a = Conv(u, w1)
            y = Conv(a, w2)
        }""",
        w1=(6, 3, 1, 1), w2=(2, 6, 1, 1),
    )  # fmt: skip
    pruned = without(examined(model), "w1", 0, 1)
    dims = pruned.graph.value_info[0].type.tensor_type.shape.dim

    assert [d.dim_param or d.dim_value for d in dims] == ["N", 4, 4, 4]


def test_the_source_is_never_edited() -> None:
    model = option_a(18)
    before = model.SerializeToString(deterministic=True)
    graph = Graph.from_model(model)
    analysis = proved(model)
    remove_channels(analysis.mask(analysis.groups[0].units[:2]))

    assert model.SerializeToString(deterministic=True) == before
    assert graph.to_model().SerializeToString(deterministic=True) == before


def test_a_constant_that_something_else_reads_too_is_not_lost() -> None:
    """A Reshape gets another shape; a body and a graph output go on reading the old one."""
    model = handmade(
        """(float[N,3,4,4] u, bool flag) => (float[N,2] y, float[N,3] z, int64[2] shape) {
            a = Conv(u, w1, b1)
            b = Reshape(a, shape)
            c = Gemm<transB=1>(b, w2)
            y = Relu(c)
            d = Reshape(a, other)
            e = Mul(d, gain)
            g = ReduceMean<keepdims=0>(u, axes)
            z = Loop(times, flag, g) <
                body = once (int64 n, bool go, float[N,3] s) => (bool on, float[N,3] f) {
                    on = Identity(go)
                    h = Cast<to=1>(other)
                    i = ReduceSum<keepdims=0>(h)
                    f = Add(s, i)
                }
            >
        }""",
        w1=(6, 3, 1, 1), b1=(6,), w2=(2, 96), gain=(96,), shape=ints(-1, 96), other=ints(-1, 96),
        axes=ints(2, 3), times=np.array(2, np.int64),
    )  # fmt: skip
    result = without(examined(model), "w1", 0, 3)

    onnx.checker.check_model(result, full_check=True)
    assert value(result, "shape") == value(result, "other") == [-1, 96]
    proved(model)


# -- slices ----------------------------------------------------------------------------------------


def test_a_slice_that_picks_nothing_picks_nothing_of_what_is_left() -> None:
    """As what lies beyond the rotated dimensions of a head, where all of them are."""
    model = handmade(
        """(float[N,4] u) => (float[N,2] y) {
            a = Gemm<transB=1>(u, w1)
            b = Slice(a, starts, ends, axes)
            c = Concat<axis=1>(a, b)
            y = Gemm<transB=1>(c, w2)
        }""",
        w1=(6, 4), w2=(2, 6), starts=ints(6), ends=ints(1000), axes=ints(1),
    )  # fmt: skip
    result = without(examined(model), "w1", 1, 5)
    cut = only(result, "Slice")

    assert value(result, cut.input[1]) == value(result, cut.input[2]) == [4]
