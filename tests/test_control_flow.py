"""If, Loop and Scan: seen through where it is plain, left alone where not, and never broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from onnxprune.core.errors import ProofError
from onnxprune.core.graph import Graph
from onnxprune.core.runtime import Session
from onnxprune.core.scopes import bodies
from onnxprune.passes.surgery.channels import remove_channels
from onnxprune.proof.prove import prove
from onnxprune.structure.dependency import analyse
from tests.handmade import examined, handmade, ints, members, proved
from tests.strategies import random_mask


def half(model: ModelProto, ratio: float = 0.5) -> ModelProto:
    """The model without half of every group, as it is written and read again."""
    mask = random_mask(examined(model), np.random.default_rng(0), ratio)
    return onnx.load_model_from_string(remove_channels(mask).to_model().SerializeToString())


def reasons(model: ModelProto) -> dict[str, str]:
    return {f.tensor: f.reason for f in examined(model).frozen}


def branches(model: ModelProto) -> dict[str, GraphProto]:
    """The bodies in a model, by their names."""

    def within(nodes: list[NodeProto]) -> Iterator[GraphProto]:
        for node in nodes:
            for body in bodies(node):
                yield body
                yield from within(list(body.node))

    return {body.name: body for body in within(list(model.graph.node))}


CHOICE = """(float[N,3,4,4] u, bool flag) => (float[N,2,4,4] y) {
    a = Conv(u, w1, b1)
    b = If(flag) <
        then_branch = yes () => (float[N,6,4,4] t) { t = Relu(a) },
        else_branch = no () => (float[N,6,4,4] e) { d = Conv(a, w2) e = Mul(d, gain) }
    >
    y = Conv(b, w3)
}"""


def choice() -> ModelProto:
    return handmade(
        CHOICE, w1=(6, 3, 1, 1), b1=(6,), gain=(6, 1, 1), w2=(6, 6, 1, 1), w3=(2, 6, 1, 1)
    )


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
