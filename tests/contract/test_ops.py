"""What every registered op rule promises, on each of its own examples.

A rule is declared once and serves analysis, surgery, proof and cost; here the four meet: random
units of the example's graph are removed, and onnxruntime has to agree with the masked original.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from onnxprune.core.describe import describe
from onnxprune.core.graph import Graph
from onnxprune.core.positions import Space
from onnxprune.core.rules import OP_RULES, Example, NodeView, OpRule
from onnxprune.passes.surgery.channels import remove_channels
from onnxprune.proof.prove import TOLERANCE, prove
from onnxprune.structure.dependency import analyse
from onnxprune.structure.normal import normalise
from tests.examples import CASES, example_model, random_mask, text_of

GOLDEN = Path(__file__).parent.parent / "golden" / "rules.txt"
UPDATE = "ONNXPRUNE_UPDATE_GOLDEN"

# Ops that cannot have an example, and why.
WITHOUT_EXAMPLE = {
    "NonZero": "the length of its result depends on values: nothing after it is known"
}

# Examples, by how they begin, whose rule protects all channels; and the reason a user reads.
PROTECTED = {
    "{t1} = Softmax<axis=1>": "Softmax works along it",
    "{t1} = LRN": "LRN works along it",
    "{t1} = Reshape({i:": "looked up by index",
    '{t1} = Pad<mode="edge">': "padded along an axis of varying length or in a reflecting mode",
}


def line(example: Example) -> str:
    """The example on one line."""
    return example.text.replace("\n", "; ")


def name(rule: OpRule) -> str:
    """The op type, for the test's name."""
    return rule.op_type


each_case = pytest.mark.parametrize(
    ("rule", "example", "opset"),
    [pytest.param(r, e, o, id=f"{r.op_type}-{o}-{line(e)}") for r, e, o in CASES],
)


@pytest.mark.parametrize("rule", OP_RULES.all(), ids=name)
def test_has_an_example(rule: OpRule) -> None:
    assert bool(rule.examples) != (rule.op_type in WITHOUT_EXAMPLE)


@each_case
def test_removal_equals_silencing(rule: OpRule, example: Example, opset: int) -> None:
    model = example_model(example, opset)
    graph = Graph.from_model(model)
    analysis = analyse(graph)
    reason = next(
        (why for start, why in PROTECTED.items() if line(example).startswith(start)), None
    )

    assert rule.op_type in {node.op_type for node in model.graph.node}
    assert [r.opaque for r in analysis.records if r.opaque] == []
    if reason is not None:
        assert not analysis.groups
        assert reason in {frozen.reason for frozen in analysis.frozen}
        return
    assert analysis.groups
    for seed, ratio in enumerate((0.3, 0.6, 0.9)):
        mask = random_mask(analysis, np.random.default_rng(seed), ratio)
        proof = prove(graph, mask, remove_channels(mask))

        assert proof.tolerance == TOLERANCE or "Quantize" in example.text, text_of(model)
        assert proof.moved > 10 * proof.tolerance, text_of(model)


def declared() -> Iterator[str]:
    """What every rule says about each of its examples, at the newest opset of each."""
    for rule in OP_RULES.all():
        for example in rule.examples:
            yield f"{rule.op_type}: {line(example)}"
            graph, shapes = normalise(Graph.from_model(example_model(example, example.opsets[-1])))
            mark = "_2" if "{x2}" in example.text else "_1"  # after the linear operators before it
            for index, node in enumerate(graph.nodes):
                if node.op_type == rule.op_type and node.output[0].endswith(mark):
                    view = NodeView(graph, shapes, Space(), index)
                    rule.function(view)
                    yield f"    {describe(view)}"


def test_rules_say_what_they_said() -> None:
    """Read the difference as a reviewer; accept it with ONNXPRUNE_UPDATE_GOLDEN=1."""
    text = "\n".join(declared()) + "\n"
    if os.environ.get(UPDATE):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text, encoding="utf-8")

    assert text == GOLDEN.read_text(encoding="utf-8")
