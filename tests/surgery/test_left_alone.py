"""Old forms are cut alike; what no rule knows is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune.core.analysis import Mask
from onnxprune.core.errors import InternalError
from onnxprune.core.graph import Graph
from onnxprune.passes.surgery.channels import remove_channels
from tests.handmade import examined, handmade, ints, members, proved
from tests.surgery.common import only, option_a, sliced, value, without


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
