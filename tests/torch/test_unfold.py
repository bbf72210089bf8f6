"""BatchNormalization that was folded: back for the training, folded again into the file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import ModelProto, numpy_helper, parser
from torch import nn

from onnxprune.core.errors import DataError
from onnxprune.torch import from_onnx, to_onnx, unfold_batchnorm
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


def test_needs_samples() -> None:
    with pytest.raises(DataError, match="no samples"):
        unfold_batchnorm(from_onnx(_model()), [])
