"""Loop and Scan keep what they read; bodies come back as they were."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper, numpy_helper

from tests.flow.common import CHOICE, branches, choice, half, reasons
from tests.handmade import examined, handmade, members, proved

LOOP = """(float[N,6] u, bool go) => (float[N,2] y) {
    a = MatMul(u, w1)
    b = Add(a, shift)
    c = Loop(times, go, b) <
        body = once (int64 n, bool on, float[N,6] s) => (bool still, float[N,6] more)
        { still = Identity(on) t = Mul(s, scale) v = Tanh(t) more = MatMul(v, w2) }
    >
    d = MatMul(u, w3)
    e = Add(d, shift)
    f = Mul(e, scale)
    y = MatMul(f, w4)
    z = MatMul(c, w4)
    y2 = Add(y, z)
}"""


def test_a_loop_keeps_what_it_reads_and_others_have_a_copy() -> None:
    model = handmade(
        LOOP.replace("=> (float[N,2] y)", "=> (float[N,2] y2)"),
        w1=(6, 6), shift=(6,), scale=(6,), w2=(6, 6), w3=(6, 6), w4=(6, 2),
        times=np.array(2, np.int64),
    )  # fmt: skip
    analysis = proved(model)
    result = half(model)
    sizes = {t.name: list(t.dims) for t in result.graph.initializer}

    assert len(analysis.groups) == 1
    assert reasons(model)["w1"] == "read or made by Loop 'c', which has a body"
    assert sizes["scale"] == [6]
    assert sizes["scale_1"] == [3]
    assert branches(result)["once"] == branches(model)["once"]


def test_a_scan_and_what_is_around_it() -> None:
    model = handmade(
        """(float[T,6] u, float[6] start) => (float[T,2] y) {
            a = MatMul(u, w1)
            end, c = Scan<num_scan_inputs=1, body = step (float[6] s, float[6] x)
                => (float[6] s2, float[6] x2)
                { p = MatMul(s, w2) q = Add(p, x) s2 = Tanh(q) x2 = Identity(s2) }>(start, a)
            d = MatMul(c, w3)
            e = Relu(d)
            y = MatMul(e, w4)
        }""",
        w1=(6, 6), w2=(6, 6), w3=(6, 8), w4=(8, 2),
    )  # fmt: skip

    assert members(proved(model)) == [{("w3", 1), ("w4", 0)}]
    assert reasons(model)["w1"] == "read or made by Scan 'end', which has a body"
    assert branches(half(model))["step"] == branches(model)["step"]


def test_names_inside_of_a_loop_are_not_used_again() -> None:
    """A weight that needs a second version gets no name that a body has for something else."""
    model = handmade(
        LOOP.replace("=> (float[N,2] y)", "=> (float[N,2] y2)").replace(" t ", " scale_1 ")
        .replace("Tanh(t)", "Tanh(scale_1)"),
        w1=(6, 6), shift=(6,), scale=(6,), w2=(6, 6), w3=(6, 6), w4=(6, 2),
        times=np.array(2, np.int64),
    )  # fmt: skip

    assert "scale_2" in {t.name for t in half(model).graph.initializer}
    proved(model)


def test_branches_may_use_the_same_names() -> None:
    text = CHOICE.replace("d = Conv(a, w2) e = Mul(d, gain)", "t = Conv(a, w2) e = Mul(t, gain)")
    model = handmade(
        text, w1=(6, 3, 1, 1), b1=(6,), gain=(6, 1, 1), w2=(6, 6, 1, 1), w3=(2, 6, 1, 1)
    )

    assert len(proved(model).groups) == 1
    onnx.checker.check_model(half(model), full_check=True)


def test_a_body_that_is_put_back_is_the_same() -> None:
    """Notes included; nothing was removed."""
    model = choice()
    for body in branches(model).values():
        body.doc_string = f"about {body.name}"
        body.metadata_props.add(key="who", value="me")
        body.value_info.append(helper.make_tensor_value_info("d", 1, ["N", 6, 4, 4]))
        for node in body.node:
            node.doc_string = "kept"
    whole = examined(model).graph.to_model()

    assert list(whole.graph.node) == list(model.graph.node)


def test_a_branch_that_hands_on_what_is_outside() -> None:
    """ONNX Runtime wants outputs of a body to be made in it: a copy is put there, as it was."""
    model = handmade(
        """(float[N,4] u, bool flag) => (float[N,2] y) {
            a = MatMul(u, w1)
            b = If(flag) <
                then_branch = yes () => (float[N,6] t) { t = Identity(a) },
                else_branch = no () => (float[N,6] e) { c = Neg(a) e = Relu(c) }
            >
            y = MatMul(b, w2)
        }""",
        w1=(4, 6), w2=(6, 2),
    )  # fmt: skip

    assert members(proved(model)) == [{("w1", 1), ("w2", 0)}]
    assert [n.op_type for n in branches(half(model))["yes"].node] == ["Identity"]


def _without_bodies(node: NodeProto) -> None:
    del node.attribute[:]


def _one_output_too_many(node: NodeProto) -> None:
    node.output.append("more")


def _no_condition(node: NodeProto) -> None:
    del node.input[:]


@pytest.mark.parametrize("spoil", [_without_bodies, _one_output_too_many, _no_condition])
@pytest.mark.parametrize("known", [False, True])
def test_an_if_that_makes_no_sense_is_left_alone(
    spoil: Callable[[NodeProto], None], known: bool
) -> None:
    """Files are checked before; a graph built in memory is not."""
    model = choice()
    if known:
        model.graph.input.pop()
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    spoil(model.graph.node[1])
    analysis = examined(model)

    (spoilt,) = (i for i, n in enumerate(analysis.graph.nodes) if n.op_type == "If")
    assert analysis.records[spoilt].opaque
    assert "w3" not in {m.tensor for g in analysis.groups for m in g.members if m.axis == 1}
