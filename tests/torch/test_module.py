"""What a module made of a file is: names, ties, modes; and what goes back into the file."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from onnxprune.core.errors import ModelError
from onnxprune.torch import from_onnx, to_onnx
from tests.torch.compare import called, drawn, gap, outputs_of, step

EQUAL = 1e-5
# A table that is tied to the head; zeros that the exporter merged; a mere epsilon; values in a Constant.
MERGED = """
<ir_version: 10, opset_import: ["" : 20]>
agraph (int64[N, T] ids) => (float[N, T, 80] scores)
{
    words = Gather (table, ids)
    flat = MatMul (words, matrix)
    first = Add (flat, zeros)
    normed = LayerNormalization <axis = -1> (first, scale, zeros)
    shifted = Add (normed, shift)
    head = Transpose <perm = [1, 0]> (table)
    factor = Constant <value = float[16] {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2}> ()
    scaled = Mul (shifted, factor)
    softer = Add (scaled, epsilon)
    scores = MatMul (softer, head)
}
"""
NORMED = """
<ir_version: 10, opset_import: ["" : 20]>
agraph (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y)
{
    t = Conv (x, kernel)
    u = BatchNormalization <momentum = 0.75> (t, gamma, beta, mean, var)
    y = Dropout (u)
}
"""
SHAPES = {
    "table": (80, 16), "matrix": (16, 16), "zeros": (16,), "scale": (16,), "shift": (16,),
    "epsilon": (), "kernel": (4, 3, 3, 3), "gamma": (4,), "beta": (4,), "mean": (4,), "var": (4,),
}  # fmt: skip
# What exporters write: dots, signs, and the name of a module's own method.
TITLES = {
    "table": "embed.weight",
    "matrix": "onnx::MatMul_7",
    "shift": "forward",
    "mean": "bn.mean",
}


def _filled(text: str, dtype: type = np.float32) -> ModelProto:
    """The model with random weights, under the names of exporters."""
    model = parser.parse_model(text)
    rng = np.random.default_rng(0)
    read = dict.fromkeys(name for node in model.graph.node for name in node.input if name in SHAPES)
    for name in read:
        values = rng.standard_normal(SHAPES[name]) * (name != "zeros")
        values = (np.abs(values) if name == "var" else values).astype(dtype)
        model.graph.initializer.append(numpy_helper.from_array(values, TITLES.get(name, name)))
    for node in model.graph.node:
        node.input[:] = [TITLES.get(name, name) for name in node.input]
    return model


def _weights(model: ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def test_parameters_have_the_names_of_the_file() -> None:
    module = from_onnx(_filled(MERGED))

    names = {name for name, _ in module.named_parameters()}
    assert names == {
        "embed.weight", "onnx__MatMul_7", "zeros", "zeros__use", "forward_", "scale", "factor",
    }  # fmt: skip
    assert module.meta["initializers"]["forward_"] == "forward"
    assert set(module.meta["initializers"]) == names


def test_ties_stay_and_merged_vectors_part() -> None:
    model = _filled(MERGED)
    module, feeds = from_onnx(model), drawn(model)

    step(module, feeds)
    trained = to_onnx(module, model)

    weights = _weights(trained)
    assert weights.keys() - _weights(model).keys() == {"zeros_1"}
    assert (weights["zeros"] != weights["zeros_1"]).any()
    assert (weights["embed.weight"] != _weights(model)["embed.weight"]).any()
    assert gap(called(module, feeds), outputs_of(trained, feeds)) < EQUAL


def test_nothing_trained_is_nothing_written() -> None:
    model = _filled(MERGED)

    assert to_onnx(from_onnx(model), model) == model


def test_batchnorm_and_dropout_follow_the_mode() -> None:
    model = _filled(NORMED)
    module, feeds = from_onnx(model), drawn(model)
    mean = _weights(model)["bn.mean"]
    x = torch.from_numpy(feeds["x"])

    assert torch.equal(module(x), module(x))
    module.train()
    dropped = (module(x) == 0).float().mean().item()
    module.eval()
    trained = to_onnx(module, model)

    batch = torch.nn.functional.conv2d(x, module.get_parameter("kernel")).mean((0, 2, 3))
    expected = 0.75 * mean + 0.25 * batch.detach().numpy()
    np.testing.assert_allclose(_weights(trained)["bn.mean"], expected, rtol=1e-5)
    assert 0.4 < dropped < 0.6
    assert gap(called(module, feeds), outputs_of(trained, feeds)) < EQUAL
    assert [name for name, _ in module.named_parameters()] == [
        "kernel", "gamma", "beta",
    ]  # fmt: skip


def test_statistics_behind_an_identity_are_written_back() -> None:
    text = NORMED.replace("{\n    t =", "{\n    same = Identity (mean)\n    t =")
    model = _filled(text.replace("beta, mean,", "beta, same,"))
    module, feeds = from_onnx(model), drawn(model)

    step(module, feeds)
    trained = to_onnx(module, model)

    assert (_weights(trained)["bn.mean"] != _weights(model)["bn.mean"]).all()
    assert gap(called(module, feeds), outputs_of(trained, feeds)) < EQUAL
    computed = _filled(text.replace("beta, mean,", "beta, same,").replace("Identity", "Neg"))
    with pytest.raises(ModelError, match="it trains values that the file computes"):
        from_onnx(computed)


def test_element_types_are_kept() -> None:
    text = MERGED.replace("float[N", "float16[N").replace("Mul (shifted, factor)", "Neg (shifted)")
    model = _filled(text, np.float16)

    module = from_onnx(model).float()
    step(module, drawn(model))
    trained = to_onnx(module, model)

    assert {t.data_type for t in trained.graph.initializer} == {TensorProto.FLOAT16}
    assert (_weights(trained)["embed.weight"] != _weights(model)["embed.weight"]).any()


def test_lengths_break_no_graph() -> None:
    model = parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 20]>
        agraph (float[N, T, 8] x) => (float[N, T, 8] y)
        <int64 one = {1}, int64[1] heads = {2}, int64[1] rest = {-1}, int64[1] axis = {0}>
        {
            lengths = Shape (x)
            time = Gather (lengths, one)
            times = Unsqueeze (time, axis)
            first = Shape <start = 0, end = 1> (x)
            split = Concat <axis = 0> (first, times, heads, rest)
            parts = Reshape (x, split)
            floats = Cast <to = 1> (time)
            root = Sqrt (floats)
            scaled = Div (parts, root)
            y = Reshape (scaled, lengths)
        }
        """
    )
    module = from_onnx(model)

    compiled = torch.compile(module, backend="eager", fullgraph=True, dynamic=True)
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(compiled(x), x / 5**0.5)
    assert [n for n in module.graph.nodes if n.op == "get_attr"] == []


def test_copies_are_apart() -> None:
    model = _filled(NORMED)
    module, feeds = from_onnx(model), drawn(model)
    (expected,) = called(module, feeds)

    twin = copy.deepcopy(module)
    step(module, feeds)

    assert torch.equal(called(twin, feeds)[0], expected)
    assert not torch.equal(called(module, feeds)[0], expected)
    assert to_onnx(twin, model) == model


def _one(node: str, opset: int = 20) -> ModelProto:
    return parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {opset}, "odd" : 1]>\n'
        f"agraph (float[N, 4] x) => (float[N, 4] y) {{ [here] {node} }}"
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_one("y = odd.Turn (x)"), r"node 'here' \(odd.Turn\) cannot become PyTorch: nobody"),
        (_one("y = Relu <slope = 1.0> (x)"), r"\(Relu\) .* attribute 'slope' is not carried"),
        (_one("y = TopK <sorted = 1> (x, x, x)"), r"operand 2 is not carried"),
        (_one("y = Resize <antialias = 1> (x, , x)"), "'antialias' is 1, only 0 is carried"),
        (_one("y = Relu (x)", 6), "opset 6 cannot become PyTorch, 7 to 26 can"),
        (_one("y = SequenceErase (x)"), "sequences are carried only to split and to join"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refuses_in_one_line(model: ModelProto, message: str) -> None:
    with pytest.raises(ModelError, match=message) as refused:
        from_onnx(model)

    assert "\n" not in str(refused.value)


def test_names_the_branch_that_is_refused() -> None:
    body = helper.make_graph([], "b", [], [helper.make_empty_tensor_value_info("x")])
    model = _one("y = Relu (x)")
    model.graph.node[0].CopyFrom(
        helper.make_node("If", ["x"], ["y"], "choice", then_branch=body, else_branch=body)
    )

    with pytest.raises(ModelError, match=r"node 'choice' .*control flow is not carried"):
        from_onnx(model)


def test_refuses_another_file() -> None:
    model = _filled(NORMED)
    module = from_onnx(model)
    other = copy.deepcopy(model)
    other.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.zeros((5, 3, 3, 3), np.float32), "kernel")
    )

    with pytest.raises(ModelError, match=r"'kernel' has shape \[5, 3, 3, 3\], the module has"):
        to_onnx(module, other)
    with pytest.raises(ModelError, match="no initializer 'kernel'"):
        to_onnx(module, _filled(MERGED))
    onnx.checker.check_model(to_onnx(module, model))
