"""Dropout that is put back acts in training, and in nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from onnxprune.core.errors import OnnxPruneError
from onnxprune.torch import from_onnx, insert_dropout, to_onnx
from tests.networks import NETWORKS, NORMED


def test_it_acts_in_training_only() -> None:
    model = NETWORKS["dense"].model()
    plain = from_onnx(model)
    x = torch.randn(4, 10)

    module = insert_dropout(plain, 0.5)

    layers = [m for m in module.modules() if isinstance(m, nn.Dropout)]
    shares = [layer.p for layer in layers]
    assert shares == [0.5, 0.5]  # none in front of the product that reads the input
    assert torch.equal(module(x), plain(x))
    torch.manual_seed(0)
    assert not torch.allclose(module.train()(x), plain(x))
    assert not any(isinstance(m, nn.Dropout) for m in plain.modules())


def test_it_does_not_reach_the_file() -> None:
    model = NETWORKS["dense"].model()
    module = insert_dropout(from_onnx(model), 0.1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)

    back = to_onnx(module, model)

    assert [n.op_type for n in back.graph.node] == [n.op_type for n in model.graph.node]
    again = from_onnx(back)
    x = torch.randn(4, 10)
    torch.testing.assert_close(again(x), module.eval()(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(OnnxPruneError, match="expected a share above 0 and below 1"):
        insert_dropout(from_onnx(NORMED.model()), share)


def test_a_module_without_a_place_for_it_is_refused() -> None:
    with pytest.raises(OnnxPruneError, match="no product with a learned matrix"):
        insert_dropout(from_onnx(NETWORKS["depthwise"].model()), 0.1)
