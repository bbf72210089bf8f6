"""Older opsets, rarer attributes and odd shapes: equal to onnxruntime."""

from __future__ import annotations

import pytest

from onnxprune.torch import from_onnx
from tests.torch.compare import called, drawn, gap, outputs_of
from tests.torch.variants import VARIANTS, Variant

TIGHT = 2e-5  # of the largest value: float32, sums in another order


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v.opset}-{v.text}")
def test_equals_onnxruntime(variant: Variant) -> None:
    model = variant.model()
    feeds = drawn(model)

    module = from_onnx(model)

    assert gap(called(module, feeds), outputs_of(model, feeds)) < TIGHT
