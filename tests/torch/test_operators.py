"""Every operator with a rule, in PyTorch: equal to onnxruntime on the rule's own examples.

And trained a step: gradients are those of finite differences, and what is written back into the file
computes what the module computes.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import Tensor, fx

from onnxprune.core.rules import OP_RULES, Example, OpRule
from onnxprune.torch import from_onnx, to_onnx
from onnxprune.torch.operators import TORCH_OPS
from onnxprune.torch.refused import REFUSED
from tests.examples import CASES, example_model
from tests.torch.compare import Feeds, called, drawn, gap, outputs_of

TIGHT = 2e-5  # of the largest value: float32, sums in another order
STEPS = 0.05  # some of 256 steps: what lies between two is rounded either way
STEP = 1e-6  # of finite differences, in float64
DERIVED = 1e-4  # of the derivative along a random direction
CARRIED = {(o.domain, o.op_type) for o in TORCH_OPS.all()}


# At the newest opset of each; `test_variants.py` has older ones.
each_case = pytest.mark.parametrize(
    ("rule", "example", "opset"),
    [
        pytest.param(r, e, o, id=f"{r.op_type}-{o}-{e.text.replace(chr(10), '; ')}")
        for r, e, o in CASES
        if (r.domain, r.op_type) in CARRIED and o == e.opsets[-1]
    ],
)

_model = functools.cache(example_model)


@pytest.mark.parametrize("rule", OP_RULES.all(), ids=lambda rule: f"{rule.domain}:{rule.op_type}")
def test_is_carried_or_refused_with_a_reason(rule: OpRule) -> None:
    key = (rule.domain, rule.op_type)

    assert (key in CARRIED) != bool(REFUSED.get(key))


@each_case
def test_equals_onnxruntime(rule: OpRule, example: Example, opset: int) -> None:
    model = _model(example, opset)
    feeds = drawn(model)

    module = from_onnx(model)
    expected = outputs_of(model, feeds)

    allowed = STEPS if rule.op_type.startswith("QLinear") else TIGHT
    assert rule.op_type in {node.op_type for node in model.graph.node}
    assert gap(called(module, feeds), expected) < allowed
    _move(module, 0.1)
    trained = to_onnx(module, model)
    found = called(module, feeds)
    assert gap(found, outputs_of(trained, feeds)) < allowed
    assert gap(found, expected) > 100 * TIGHT  # else nothing was trained


@each_case
def test_gradients_are_finite_differences(rule: OpRule, example: Example, opset: int) -> None:
    model = _model(example, opset)
    if any("Quantize" in n.op_type or n.op_type == "Cast" for n in model.graph.node):
        pytest.skip("rounds: its gradient is not its derivative, or its float64 is float32")
    feeds = {
        k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in drawn(model).items()
    }
    module = from_onnx(model).double()
    torch.manual_seed(0)
    direction = [torch.randn_like(p) for p in module.parameters()]

    _loss(module, feeds).backward()  # type: ignore[no-untyped-call]
    slope = sum(
        (d * p.grad).sum().item()
        for d, p in zip(direction, module.parameters(), strict=True)
        if p.grad is not None
    )

    with torch.no_grad():
        sides = []
        for sign in (1, -2):
            for p, d in zip(module.parameters(), direction, strict=True):
                p.add_(d, alpha=sign * STEP)
            sides.append(_loss(module, feeds).item())
    difference = (sides[0] - sides[1]) / (2 * STEP)
    assert abs(slope - difference) < DERIVED * max(abs(difference), 0.1), rule.op_type


def _move(module: fx.GraphModule, share: float) -> None:
    """Change every parameter by a share of its values."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            spread = parameter.std(correction=0).clamp(0.1)
            parameter.add_(share * spread * torch.randn_like(parameter))


def _loss(module: fx.GraphModule, feeds: Feeds) -> Tensor:
    """A number that depends on all outputs, differently on each element."""
    outputs = called(module, feeds)
    return torch.stack(
        [
            (torch.sin(y) * torch.linspace(0.5, 1.5, y.numel()).reshape(y.shape)).sum()
            for y in outputs
        ]
    ).sum()
