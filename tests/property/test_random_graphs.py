"""Random graphs: removing random units equals silencing them, and every registered rule has its turn.

Graphs are grown from the rules' own examples (`tests.property.growing`), so a new rule takes part by
having one. `benchmarks/fuzz.py` runs thousands, and saves what fails, made small.
"""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.core.graph import Graph
from onnxprune.core.rules import OpRule
from onnxprune.proof.prove import TOLERANCE
from tests.examples import text_of
from tests.property.growing import RULES, random_model
from tests.property.turns import Turn, chosen_mask, name_of, spoken_for, turn

ROUNDS = 2  # graphs grown around each rule, and proved
MOST_ROUNDS = 8  # grown until something is cut at its nodes
PER_TEST = 20
MOVED = 0.9  # share of cut graphs whose outputs change by it; else the comparison proves little
GRAPHS = ROUNDS * len(RULES)


def explained(found: Turn) -> str:
    """What a failing case prints."""
    return f"seed {found.seed}: {found.error or found.opaque}\n{text_of(random_model(found.seed))}"


@pytest.mark.parametrize("first", range(0, GRAPHS, PER_TEST))
def test_removal_equals_silencing(first: int) -> None:
    turns = [turn(seed) for seed in range(first, min(GRAPHS, first + PER_TEST))]

    for found in turns:
        assert found.error is None, explained(found)
        assert not found.opaque, explained(found)
    assert np.mean([found.moved > TOLERANCE for found in turns if found.cut]) >= MOVED


@pytest.mark.parametrize("number", range(len(RULES)), ids=map(name_of, RULES))
def test_every_rule_has_its_turn(number: int) -> None:
    """In one of the graphs grown around it, positions at its own nodes go."""
    assert any(_has_its_turn(RULES[number], number + k * len(RULES)) for k in range(MOST_ROUNDS))


def _has_its_turn(rule: OpRule, seed: int) -> bool:
    mask = chosen_mask(Graph.from_model(random_model(seed)), seed)
    return name_of(rule) in spoken_for(mask)[1]
