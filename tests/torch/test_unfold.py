"""BatchNormalization that was folded: back for the training, folded again into the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper, parser
from torch import nn

from onnxprune.core.errors import DataError
from onnxprune.torch import (
    Recipe,
    from_onnx,
    refresh_batchnorm,
    retrain,
    to_onnx,
    unfold_batchnorm,
)
from tests.torch.compare import called, drawn, gap, outputs_of, step

EQUAL = 1e-5
TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
agraph (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y)
{
    t = Conv <pads = [1, 1, 1, 1]> (x, first, bias)
    u = Relu (t)
    v = Conv <group = 3> (u, depthwise, shift)
    w = Add (u, v)
    y = Conv (w, last)
}
"""
SHAPES = {
    "first": (6, 3, 3, 3), "bias": (6,), "depthwise": (6, 2, 1, 1), "shift": (6,),
    "last": (4, 6, 3, 3),
}  # fmt: skip


def _model() -> ModelProto:
    model = parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def test_changes_nothing_until_it_is_trained() -> None:
    model = _model()
    module, feeds = from_onnx(model), drawn(model)
    x = torch.from_numpy(feeds["x"])
    expected = outputs_of(model, feeds)

    unfolded = unfold_batchnorm(module, [(x[:2],), (x[2:],)])

    norms = [m for m in unfolded.modules() if isinstance(m, nn.BatchNorm2d)]
    outputs = torch.nn.functional.conv2d(x, module.get_parameter("first"), padding=1)
    outputs = outputs + module.get_parameter("bias").reshape(-1, 1, 1)
    assert len(norms) == 2  # the last convolution has no bias, so nothing was folded into it
    assert norms[0].running_var is not None
    torch.testing.assert_close(norms[0].running_var, outputs.var((0, 2, 3), correction=0))
    assert gap(called(unfolded, feeds), expected) < EQUAL
    assert gap(called(from_onnx(to_onnx(unfolded, model)), feeds), expected) < EQUAL
    unfolded.train()
    assert gap(called(unfolded, feeds), expected) < EQUAL  # the batch is the sample
    assert not [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


def test_is_folded_into_the_file() -> None:
    model = _model()
    feeds = drawn(model)
    x = torch.from_numpy(feeds["x"])
    module = unfold_batchnorm(from_onnx(model), [(x[:1],)])

    for _ in range(3):
        step(module, feeds)
    trained = to_onnx(module, model)

    assert [n.op_type for n in trained.graph.node] == [n.op_type for n in model.graph.node]
    assert gap(called(module, feeds), outputs_of(trained, feeds)) < EQUAL
    assert gap(called(module, feeds), outputs_of(model, feeds)) > 100 * EQUAL


def _normed() -> ModelProto:
    """Two norms whose statistics are far from those of normal samples, and two that hold the same."""
    model = parser.parse_model("""
<ir_version: 10, opset_import: ["" : 20]>
agraph (float[N, 6, 4, 4] x) => (float[N, 6, 4, 4] y)
{
    t = BatchNormalization <epsilon = 0.01> (x, s0, b0, m0, v0)
    u = Relu (t)
    v = BatchNormalization (u, s1, b1, m1, v1)
    w = BatchNormalization (v, s2, b2, m2, v2)
    y = BatchNormalization (w, s2, b2, m2, v2)
}
""")
    rng = np.random.default_rng(0)
    for name in [kind + str(i) for i in range(3) for kind in "sbmv"]:
        values = rng.uniform(1, 4, 6) if name[0] in "sv" else 3 * rng.standard_normal(6)
        tensor = numpy_helper.from_array(values.astype(np.float32), name)
        model.graph.initializer.append(tensor)
    return model


def test_norms_take_the_statistics_of_samples() -> None:
    model = _normed()
    module, feeds = from_onnx(model), drawn(model)
    x, expected = torch.from_numpy(feeds["x"]), outputs_of(model, feeds)

    fresh = refresh_batchnorm(module, [(x,)])

    held = fresh.state_dict()
    torch.testing.assert_close(held["m0"], x.mean((0, 2, 3)))
    torch.testing.assert_close(held["v0"], x.var((0, 2, 3), correction=0))
    assert gap(called(fresh, feeds), expected) < EQUAL
    assert gap(called(from_onnx(to_onnx(fresh, model)), feeds), expected) < EQUAL
    first = next(node for node in fresh.graph.nodes if node.op == "call_module")
    norm, parts = fresh.get_submodule(first.target), [held[str(a.target)] for a in first.args[1:]]
    evaluated = norm.eval()(x, *parts)
    torch.testing.assert_close(norm.train()(x, *parts), evaluated)


@pytest.mark.parametrize("unfold", [False, True])
def test_training_moves_statistics_only_where_asked_to(unfold: bool, tmp_path: Path) -> None:
    model = _normed()
    onnx.save(model, tmp_path / "teacher.onnx")
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for tensor in model.graph.initializer:
        if tensor.name == "s1":
            tensor.CopyFrom(numpy_helper.from_array(values["s1"] / 2, "s1"))
    onnx.save(model, tmp_path / "student.onnx")
    x = np.random.default_rng(1).standard_normal((64, 6, 4, 4)).astype(np.float32)

    recipe = Recipe(epochs=20, batch=16, optimizer="sgd", rate=0.1, unfold=unfold, holdout=0.0)
    done = retrain(
        tmp_path / "student.onnx", tmp_path / "teacher.onnx", {"x": x}, tmp_path / "a.onnx",
        recipe=recipe,
    )  # fmt: skip

    made = onnx.load(tmp_path / "a.onnx").graph.initializer
    found = {t.name: numpy_helper.to_array(t) for t in made}
    same = {name for name, value in values.items() if np.array_equal(value, found[name])}
    assert unfold or done.losses[-1] < 0.5 * done.losses[0]  # batches are noise to it
    assert same == (set() if unfold else {"m0", "v0", "m1", "v1", "m2", "v2"})


@pytest.mark.parametrize("change", [unfold_batchnorm, refresh_batchnorm])
def test_needs_samples(change: Callable[..., object]) -> None:
    with pytest.raises(DataError, match="no samples"):
        change(from_onnx(_model() if change is unfold_batchnorm else _normed()), [])
