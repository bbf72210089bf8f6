"""A mutant of every rule is caught: a sample of what `benchmarks/fuzz.py --mutants` tries in full."""

from __future__ import annotations

import pytest

from onnxprune.core.rules import OpRule
from tests.property.equivalent import EQUIVALENT, entry_of
from tests.property.growing import RULES
from tests.property.mutants import Key, caught, mutants, sampled
from tests.property.turns import name_of


def _equivalent(key: Key) -> bool:
    return entry_of(key) is not None


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_a_mutant_is_caught(rule: OpRule) -> None:
    sample = sampled(rule, _equivalent)
    if sample is None:
        assert mutants(rule), "an example of which the rule says nothing"
        return
    if caught(sample) is not None:
        return

    elsewhere = (mutant for mutant in mutants(rule) if mutant.key == sample.key)
    assert caught(next(elsewhere)) is not None, sample.key


def test_what_is_equivalent_is_of_a_rule_and_has_a_reason() -> None:
    for (rules, _, _), reason in EQUIVALENT.items():
        assert reason
        for name in rules.split("; "):
            assert name == "*" or name in map(name_of, RULES)
