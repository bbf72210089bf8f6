"""Five hundred random graphs: removing random units equals silencing them.

Graphs are grown from the rules' own examples (`tests.strategies`), so a new rule takes part by
having one. A failing case prints its seed and the graph as ONNX text.
"""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.core.graph import Graph
from onnxprune.dependency import analyse
from onnxprune.passes.surgery.channels import remove_channels
from onnxprune.verify import TOLERANCE, prove
from tests.strategies import random_mask, random_model, text_of

GRAPHS, PER_TEST = 500, 25
MOVED = 0.85  # share of graphs whose outputs the removal changes; else the comparison proves little


def removed_change(seed: int) -> float:
    """Remove random units of the graph of `seed`, prove it; how far its outputs moved."""
    model = random_model(seed)
    graph = Graph.from_model(model)
    rng = np.random.default_rng([seed, 3])
    try:
        analysis = analyse(graph)
        opaque = [r.opaque for r in analysis.records if r.opaque]
        mask = random_mask(analysis, rng, rng.uniform(0.1, 0.9))
        proof = prove(graph, mask, remove_channels(mask))
    except Exception as error:
        error.add_note(f"seed {seed}\n{text_of(model)}")
        raise

    assert opaque == [], f"seed {seed}\n{text_of(model)}"
    return proof.moved


@pytest.mark.parametrize("first", range(0, GRAPHS, PER_TEST))
def test_removal_equals_silencing(first: int) -> None:
    changes = [removed_change(seed) for seed in range(first, first + PER_TEST)]

    assert np.mean(np.array(changes) > TOLERANCE) > MOVED
