"""Local functions: analysed through their calls, and kept word for word where nothing in them changes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper, parser

from onnxprune.core.graph import Graph
from onnxprune.passes.surgery.channels import remove_channels
from onnxprune.proof.prove import prove
from onnxprune.structure.dependency import analyse
from tests.examples import random_mask
from tests.handmade import examined, members, proved

SWISH = """<domain: "local", opset_import: ["" : 18]>
Swish <beta: float = 1.0> (x) => (y) {
    b = Constant<value_float: float = @beta>()
    two = Constant<value = float {2.0}>()
    half = Reciprocal(two)
    bx = Mul(b, x)
    s = Sigmoid(bx)
    t = Mul(s, x)
    u = Mul(t, half)
    y = Mul(u, two)
}
"""
LINEAR = """<domain: "local", opset_import: ["" : 18, "local" : 1]>
Layer (x, w, b) => (y) {
    a = MatMul(x, w)
    c = Add(a, b)
    y = local.Swish<beta: float = 1.5>(c)
}
"""


def written(graph: str, *functions: str, seed: int = 0, **shapes: tuple[int, ...]) -> ModelProto:
    """A model from text, with random weights."""
    head = '<ir_version: 10, opset_import: ["" : 18, "local" : 1]>\n'
    model = parser.parse_model(head + "main " + graph + "\n" + "\n".join(functions))
    rng = np.random.default_rng(seed)
    for name, shape in shapes.items():
        array = np.asarray(rng.standard_normal(shape) / 2, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def half(model: ModelProto) -> ModelProto:
    """The model without half of each group, proved."""
    graph = Graph.from_model(model)
    analysis = analyse(graph)
    mask = random_mask(analysis, np.random.default_rng(0), 0.5)
    pruned = remove_channels(mask)

    assert prove(graph, mask, pruned).moved > 0.01
    return onnx.load_model_from_string(pruned.to_model().SerializeToString())


def calls(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if node.domain == "local"]


def test_a_function_that_changes_nothing_stays_word_for_word() -> None:
    model = written(
        """(float[N,3,8,8] u) => (float[N,2,8,8] y) {
            a = Conv(u, w1, b1)
            b = local.Swish<beta: float = 0.7>(a)
            c = Conv(b, w2, b2)
            d = local.Swish(c)
            y = Conv(d, w3)
        }""",
        SWISH, w1=(6, 3, 1, 1), b1=(6,), w2=(6, 6, 1, 1), b2=(6,), w3=(2, 6, 1, 1),
    )  # fmt: skip
    analysis = proved(model)
    result = half(model)

    assert members(analysis) == [
        {("w1", 0), ("b1", 0), ("w2", 1)},
        {("w2", 0), ("b2", 0), ("w3", 1)},
    ]
    assert result.functions == model.functions
    assert [n.op_type for n in result.graph.node] == ["Conv", "Swish", "Conv", "Swish", "Conv"]
    assert result.graph.node[1] == model.graph.node[1]
    assert {t.name for t in result.graph.initializer} == {"w1", "b1", "w2", "b2", "w3"}


def test_functions_that_are_given_weights_stay_too() -> None:
    model = written(
        """(float[N,5] u) => (float[N,2] y) {
            a = local.Layer(u, w1, b1)
            b = local.Layer(a, w2, b2)
            y = MatMul(b, w3)
        }""",
        LINEAR, SWISH, w1=(5, 8), b1=(8,), w2=(8, 6), b2=(6,), w3=(6, 2),
    )  # fmt: skip
    analysis = proved(model)
    result = half(model)

    assert members(analysis) == [
        {("w1", 1), ("b1", 0), ("w2", 0)},
        {("w2", 1), ("b2", 0), ("w3", 0)},
    ]
    assert result.functions == model.functions
    assert list(result.graph.node) == list(model.graph.node)


HOLDING = """<domain: "local", opset_import: ["" : 18, "local" : 1]>
Held (x) => (y) {
    w = Constant<value = float[2,4] {0.1, 0.9, -0.3, 0.4, 0.5, -0.6, 0.7, 0.8}>()
    a = MatMul(x, w)
    c = local.Swish(a)
    v = Constant<value = float[4,2] {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, -0.7, 0.8}>()
    y = MatMul(c, v)
}
"""


def test_a_function_whose_weights_shrink_is_inlined_and_forgotten() -> None:
    model = written(
        """(float[N,3] u) => (float[N,2] y) {
            a = MatMul(u, w1)
            b = local.Held(a)
            c = local.Swish(b)
            y = Add(b, c)
        }""",
        HOLDING, SWISH, w1=(3, 2),
    )  # fmt: skip
    result = half(model)

    assert calls(result) == ["Swish", "Swish"]
    assert [f.name for f in result.functions] == ["Swish"]
    assert {tuple(t.dims) for t in result.graph.initializer} >= {(3, 1), (1, 2), (2, 2)}


def test_two_calls_of_a_function_share_its_weights() -> None:
    """As long as they lose the same; the file does not grow by what is inlined."""
    model = written(
        """(float[N,2] u) => (float[N,2] y) {
            a = local.Held(u)
            b = Relu(a)
            y = local.Held(b)
        }""",
        HOLDING, SWISH,
    )  # fmt: skip
    analysis = examined(model)

    assert len(analysis.groups) == 3
    unpruned = analysis.graph.to_model()
    assert list(unpruned.graph.node) == list(model.graph.node)
    assert unpruned.functions == model.functions
    assert not unpruned.graph.initializer
    proved(model)


def test_overloads_are_kept_apart() -> None:
    model = written(
        """(float[N,3] u) => (float[N,2] y) {
            a = MatMul(u, w1)
            b = local.Act(a)
            c = local.Act(b)
            y = MatMul(c, w2)
        }""",
        w1=(3, 6), w2=(6, 2),
    )  # fmt: skip
    opset = [helper.make_opsetid("", 18)]
    for overload, op_type in (("soft", "Softplus"), ("hard", "Relu")):
        function = helper.make_function(
            "local", "Act", ["x"], ["y"], [helper.make_node(op_type, ["x"], ["y"])], opset,
            overload=overload,
        )  # fmt: skip
        model.functions.append(function)
    model.graph.node[1].overload, model.graph.node[2].overload = "soft", "hard"
    analysis = proved(model)
    result = half(model)

    assert [n.op_type for n in analysis.graph.nodes] == ["MatMul", "Softplus", "Relu", "MatMul"]
    assert result.functions == model.functions
    assert list(result.graph.node) == list(model.graph.node)


def test_a_function_of_another_opset_is_inlined_where_its_operators_agree() -> None:
    """Softmax of opset 11 flattens what Softmax of opset 13 does not; Relu is the same in both."""
    model = written(
        """(float[N,3,2] u) => (float[N,3,2] y, float[N,3,2] z) {
            a = MatMul(u, w1)
            b = local.Old(a)
            y = MatMul(b, w2)
            c = MatMul(u, w3)
            d = local.Fine(c)
            z = MatMul(d, w4)
        }""",
        '<domain: "local", opset_import: ["" : 11]> Old (x) => (y) { y = Softmax<axis=1>(x) }',
        '<domain: "local", opset_import: ["" : 15]> Fine (x) => (y) { y = Relu(x) }',
        w1=(2, 6), w2=(6, 2), w3=(2, 6), w4=(6, 2),
    )  # fmt: skip
    analysis = examined(model)

    assert members(analysis) == [{("w3", 1), ("w4", 0)}]
    reasons = {f.tensor: f.reason for f in analysis.frozen}
    assert reasons["w1"] == "no rule for op local::Old"


def test_functions_that_call_each_other_for_ever_are_left_alone() -> None:
    model = written(
        """(float[N,3] u) => (float[N,3] y) { a = MatMul(u, w1) y = local.Ping(a) }""",
        '<domain: "local", opset_import: ["" : 18, "local" : 1]> Ping (x) => (y) { y = local.Pong(x) }',
        '<domain: "local", opset_import: ["" : 18, "local" : 1]> Pong (x) => (y) { y = local.Ping(x) }',
        w1=(3, 3),
    )  # fmt: skip

    assert [n.op_type for n in examined(model).graph.nodes] == ["MatMul", "Ping"]


def test_functions_of_functions_do_not_explode() -> None:
    """Forty levels that each call the next twice would be a million million nodes."""
    levels = [
        f'<domain: "local", opset_import: ["" : 18, "local" : 1]> F{i} (x) => (y) '
        f"{{ a = local.F{i + 1}(x) y = local.F{i + 1}(a) }}"
        for i in range(40)
    ]
    last = '<domain: "local", opset_import: ["" : 18]> F40 (x) => (y) { y = Relu(x) }'
    model = written("(float[N,3] u) => (float[N,3] y) { y = local.F0(u) }", *levels, last)

    assert [n.op_type for n in examined(model).graph.nodes] == ["F0"]


def test_operands_left_out_and_handed_through() -> None:
    model = written(
        """(float[N,3,8,8] u) => (float[N,2,8,8] y) {
            a, same = local.Two(u, w1)
            b = Relu(a)
            c, ignored = local.Two(b, w2, b2)
            d = Conv(same, w4)
            e = Conv(c, w3)
            y = Add(d, e)
        }""",
        '<domain: "local", opset_import: ["" : 18]> '
        "Two (x, w, b) => (y, z) { y = Conv(x, w, b) z = Relu(x) }",
        w1=(6, 3, 1, 1), w2=(5, 6, 1, 1), b2=(5,), w3=(2, 5, 1, 1), w4=(2, 3, 1, 1),
    )  # fmt: skip
    analysis = proved(model)

    assert members(analysis) == [{("w1", 0), ("w2", 1)}, {("w2", 0), ("b2", 0), ("w3", 1)}]
    assert list(half(model).graph.node) == list(model.graph.node)


def test_a_length_that_a_function_writes_out_follows() -> None:
    """The function reshapes to a written number of channels: that call cannot stay."""
    model = written(
        """(float[N,3,4,4] u) => (float[N,2] y) {
            a = Conv(u, w1)
            b = local.Flat(a)
            y = MatMul(b, w2)
        }""",
        '<domain: "local", opset_import: ["" : 18]> Flat (x) => (y) '
        "{ s = Constant<value_ints = [-1, 96]>() y = Reshape(x, s) }",
        w1=(6, 3, 1, 1), w2=(96, 2),
    )  # fmt: skip
    result = half(model)

    assert [n.op_type for n in result.graph.node] == ["Conv", "Reshape", "MatMul"]
    assert not result.functions
