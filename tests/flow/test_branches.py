"""If is seen through where it is plain, left alone where not, and never broken."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.core.errors import ProofError
from onnxprune.core.graph import Graph
from onnxprune.core.runtime import Session
from onnxprune.passes.surgery.channels import remove_channels
from onnxprune.proof.prove import prove
from onnxprune.structure.dependency import analyse
from tests.examples import random_mask
from tests.flow.common import CHOICE, branches, choice, half, reasons
from tests.handmade import examined, handmade, ints, members, proved


def test_both_branches_are_seen_through() -> None:
    model = choice()
    result = half(model)
    found = branches(result)

    assert members(proved(model)) == [
        {("w1", 0), ("b1", 0), ("w2", 1), ("w2", 0), ("gain", 0), ("w3", 1)}
    ]
    assert [n.op_type for n in result.graph.node] == ["Conv", "If", "Conv"]
    assert [n.op_type for n in found["yes"].node] == ["Relu"]
    assert [n.op_type for n in found["no"].node] == ["Conv", "Mul"]
    assert [d.dim_value for d in found["no"].output[0].type.tensor_type.shape.dim] == [0, 3, 4, 4]


def test_weights_in_a_branch_stay_in_it() -> None:
    model = handmade(
        """(float[N,3,4,4] u, bool flag) => (float[N,2,4,4] y) {
            y = If(flag) <
                then_branch = yes () => (float[N,2,4,4] t) {
                    a = Conv(u, w1, b)
                    t = Conv(a, w2)
                },
                else_branch = no () => (float[N,2,4,4] e) { a = Conv(u, w3, b) e = Conv(a, w4) }
            >
        }""",
        w1=(6, 3, 1, 1), b=(6,), w2=(2, 6, 1, 1), w3=(6, 3, 1, 1), w4=(2, 6, 1, 1),
    )  # fmt: skip
    held = {t.name: t for t in model.graph.initializer}
    del model.graph.initializer[:]
    for name, owned in {"yes": ("w1", "b", "w2"), "no": ("w3", "b", "w4")}.items():
        branches(model)[name].initializer.extend(held[t] for t in owned)
    analysis = proved(model)
    result = half(model)
    found = branches(result)

    assert sorted(len(group) for group in analysis.groups) == [6, 6]
    assert not result.graph.initializer
    assert {t.dims[0] for t in found["yes"].initializer} == {3, 2}
    assert {t.dims[0] for t in found["no"].initializer} == {3, 2}
    whole = analysis.graph.to_model()
    assert len(branches(whole)["yes"].initializer) == len(branches(whole)["no"].initializer) == 3


def test_branches_within_branches() -> None:
    model = handmade(
        """(float[N,4] u, bool flag, bool other) => (float[N,2] y) {
            a = MatMul(u, w1)
            b = If(flag) <
                then_branch = yes () => (float[N,6] t) {
                    s = Add(a, shift)
                    t = If(other) <
                        then_branch = inner () => (float[N,6] it) { it = MatMul(s, w2) },
                        else_branch = last () => (float[N,6] ie) { ie = Mul(s, a) }
                    >
                },
                else_branch = no () => (float[N,6] e) { e = Tanh(a) }
            >
            y = MatMul(b, w3)
        }""",
        w1=(4, 6), shift=(6,), w2=(6, 6), w3=(6, 2),
    )  # fmt: skip
    analysis = proved(model)
    found = branches(half(model))

    assert len(members(analysis)) == 1
    assert [n.op_type for n in found["yes"].node] == ["Add", "If"]
    assert [n.op_type for n in found["inner"].node] == ["MatMul"]
    assert [n.op_type for n in found["last"].node] == ["Mul"]


def test_shape_arithmetic_in_a_branch_follows() -> None:
    """A Reshape to a computed shape, a Slice that becomes a Gather: what is new stands in the branch."""
    model = handmade(
        """(float[N,3,4,4] u, bool flag) => (float[N,2] y) {
            a = Conv(u, w1)
            b = If(flag) <
                then_branch = yes () => (float[N,96] t) {
                    s = Shape<end=1>(a)
                    target = Concat<axis=0>(s, rest)
                    t = Reshape(a, target)
                },
                else_branch = no () => (float[N,96] e) {
                    c = Slice(a, first, last, axes, steps)
                    d = Conv(c, w3)
                    e = Flatten(d)
                }
            >
            y = MatMul(b, w2)
        }""",
        w1=(6, 3, 1, 1), w2=(96, 2), rest=ints(96), w3=(6, 3, 1, 1), first=ints(0), last=ints(9),
        axes=ints(1), steps=ints(2),
    )  # fmt: skip
    proved(model)
    analysis = examined(model)  # one channel that the slice leaves out goes
    result = remove_channels(analysis.mask(analysis.groups[1].units[:1])).to_model()
    found = branches(result)

    assert [n.op_type for n in result.graph.node] == ["Conv", "If", "MatMul"]
    assert [n.op_type for n in found["yes"].node] == ["Shape", "Concat", "Where", "Reshape"]
    assert [n.op_type for n in found["no"].node] == ["Slice", "Gather", "Conv", "Flatten"]


def test_branches_of_unlike_shapes_freeze_what_they_touch() -> None:
    model = handmade(
        """(float[N,6] u, bool flag) => (float[N,M] y, float[N,2] z) {
            a = MatMul(u, w1)
            y = If(flag) <
                then_branch = yes () => (float[N,6] t) { t = Relu(a) },
                else_branch = no () => (float[N,4] e) { e = MatMul(a, w2) }
            >
            c = MatMul(u, w3)
            d = Relu(c)
            z = MatMul(d, w4)
        }""",
        w1=(6, 6), w2=(6, 4), w3=(6, 6), w4=(6, 2),
    )  # fmt: skip

    assert members(proved(model)) == [{("w3", 1), ("w4", 0)}]
    assert reasons(model)["w1"] == "If cannot be described: the shape of 'y' is unknown"


def test_a_condition_that_is_known_is_no_choice() -> None:
    model = handmade(
        """(float[N,6,1] u) => (float[N,2] y) {
            shape = Shape(u)
            last = Gather(shape, two)
            single = Equal(last, one)
            a = If(single) <
                then_branch = yes () => (float[N,6] t) { t = Squeeze(u, two) },
                else_branch = no () => (float[N,6,1] e) { e = Identity(u) }
            >
            b = MatMul(a, w1)
            y = MatMul(b, w2)
        }""",
        w1=(6, 6), w2=(6, 2), two=ints(2), one=ints(1),
    )  # fmt: skip
    analysis = proved(model)

    assert members(analysis) == [{("w1", 1), ("w2", 0)}]
    assert "If" not in {n.op_type for n in half(model).graph.node}


def test_a_condition_on_an_unknown_length_stays_a_choice() -> None:
    """Batches of 2 and 3 are both not 1; a batch of 1 is."""
    model = handmade(
        """(float[N,6] u) => (float[N,2] y) {
            batch = Shape<end=1>(u)
            single = Equal(batch, one)
            a = MatMul(u, w1)
            b = If(single) <
                then_branch = yes () => (float[N,6] t) { t = Neg(a) },
                else_branch = no () => (float[N,6] e) { e = Relu(a) }
            >
            y = MatMul(b, w2)
        }""",
        w1=(6, 6), w2=(6, 2), one=ints(1),
    )  # fmt: skip
    result = half(model)
    session = Session(analyse(Graph.from_model(model)).graph.to_model())

    assert "If" in {n.op_type for n in result.graph.node}
    for count in (1, 4):
        feeds = {"u": np.random.default_rng(count).standard_normal((count, 6)).astype(np.float32)}
        expected = Session(model).run(feeds)["y"]
        np.testing.assert_allclose(session.run(feeds)["y"], expected, atol=1e-6)
    proved(model)


def test_a_wrong_branch_is_found_though_no_input_chooses_it() -> None:
    """The condition is false on all drawn inputs; the branch that is true is broken on purpose."""
    text = CHOICE.replace("bool flag", "float flag").replace("If(flag)", "If(large)")
    text = text.replace("a = Conv", "large = Greater(flag, limit)\n a = Conv", 1)
    model = handmade(
        text, w1=(6, 3, 1, 1), b1=(6,), gain=(6, 1, 1), w2=(6, 6, 1, 1), w3=(2, 6, 1, 1),
        limit=np.array(1e6, np.float32),
    )  # fmt: skip
    graph = Graph.from_model(model)
    mask = random_mask(analyse(graph), np.random.default_rng(0), 0.5)
    pruned = remove_channels(mask)
    assert prove(graph, mask, pruned).moved > 0.01
    relu = next(n for n in pruned.nodes if n.op_type == "Relu")
    relu.op_type = "Sigmoid"

    with pytest.raises(ProofError, match=r"'then_branch' of the If that makes 'b'"):
        prove(graph, mask, pruned)


def test_a_branch_that_no_input_fits_is_not_taken_on_trust() -> None:
    """One branch reads columns from 1000 on, which no drawn input has; samples have to show it."""
    model = handmade(
        """(float[N,M] u, int64[6] k, bool far) => (float[N,2] y) {
            y = If(far) <
                then_branch = yes () => (float[N,2] t) {
                    there = Add(k, offset)
                    a = Gather<axis=1>(u, there)
                    b = MatMul(a, w1)
                    t = MatMul(b, w2)
                },
                else_branch = no () => (float[N,2] e) { c = Gather<axis=1>(u, k) e = MatMul(c, w3) }
            >
        }""",
        w1=(6, 6), w2=(6, 2), w3=(6, 2), offset=ints(1000),
    )  # fmt: skip
    graph = Graph.from_model(model)
    mask = random_mask(analyse(graph), np.random.default_rng(0), 0.5)
    near = {"k": np.arange(6), "far": np.array(False), "u": np.ones((2, 9), np.float32)}
    far = near | {"u": np.random.default_rng(0).standard_normal((2, 1010)).astype(np.float32)}

    with pytest.raises(ProofError, match=r"'then_branch' .* runs: give samples that need it"):
        prove(graph, mask, remove_channels(mask), [near])
    assert prove(graph, mask, remove_channels(mask), [near, far]).gap < 1e-6
