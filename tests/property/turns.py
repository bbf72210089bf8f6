"""One random graph, cut and proved: which rules took part, and in which of them something went.

A rule has its turn in a graph when one of its nodes touches a position that was removed. A rule that
only holds positions back has it when something else went.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto

from onnxprune.core.analysis import Analysis, Mask
from onnxprune.core.graph import Graph
from onnxprune.core.positions import Space
from onnxprune.core.rules import OP_RULES, NodeView, OpRule, RuleError
from onnxprune.passes.surgery.channels import remove_channels
from onnxprune.proof.prove import Proof, prove
from onnxprune.structure.dependency import analyse
from tests.property.growing import STEPS, chosen_units, random_model

Units = npt.NDArray[np.int64]
Name = str  # of a rule: domain.op_type


def name_of(rule: OpRule) -> Name:
    """The op type with its domain, and the opset from which on where there are several rules."""
    return f"{rule.domain}.{rule.op_type}" if rule.domain else rule.op_type


@dataclass(frozen=True)
class Turn:
    """What one graph showed.

    Attributes:
        seed: of the graph.
        present: rules that speak for its nodes.
        cut: those of them with a removed position on an operand or result.
        moved: largest relative change of the outputs by the removal; the proof's own gap.
        gap: largest relative difference from the oracle.
        error: why it failed; None when it passed.
    """

    seed: int
    present: frozenset[Name] = frozenset()
    cut: frozenset[Name] = frozenset()
    moved: float = 0.0
    gap: float = 0.0
    error: str | None = None
    opaque: tuple[str, ...] = field(default=())


def turn(seed: int) -> Turn:
    """Grow the graph of `seed`, remove units at random, prove it."""
    try:
        graph = Graph.from_model(random_model(seed))
        mask = chosen_mask(graph, seed)
        present, cut = spoken_for(mask)
        opaque = tuple(sorted({r.opaque for r in mask.analysis.records if r.opaque}))
        proof = proved(graph, mask)
    except Exception as error:  # noqa: BLE001  # whatever it is, the run goes on
        return Turn(seed, error=f"{type(error).__name__}: {error}")
    return Turn(seed, present, cut, proof.moved, proof.gap, None, opaque)


def chosen_mask(graph: Graph, seed: int) -> Mask:
    """What `seed` removes from a graph."""
    analysis = analyse(graph)
    return analysis.mask(chosen_units(analysis, seed))


def proved(graph: Graph, mask: Mask) -> Proof:
    """Remove and prove."""
    return prove(graph, mask, remove_channels(mask))


def spoken_for(mask: Mask) -> tuple[frozenset[Name], frozenset[Name]]:
    """The rules of a graph's nodes, and those of nodes that lose positions."""
    graph = mask.analysis.graph
    present, cut = set(), set()
    for number, node in enumerate(graph.nodes):
        rule = OP_RULES.find(node, graph.opsets)
        if rule is not None:
            present.add(name_of(rule))
            if loses(mask, node) or (mask.removed.any() and _only_holds(mask, rule, number)):
                cut.add(name_of(rule))
    return frozenset(present), frozenset(cut)


def _only_holds(mask: Mask, rule: OpRule, number: int) -> bool:
    """Whether the rule has nothing to say of this node but what stays."""
    view = NodeView(mask.analysis.graph, mask.analysis.shapes, Space(), number)
    try:
        rule.function(view)
    except RuleError:  # it can say nothing: all stays
        return True
    return not (view.said.couples or view.said.factors or view.record.fixes)


def loses(mask: Mask, node: NodeProto) -> bool:
    """Whether an operand or result of the node loses positions."""
    ranks = mask.analysis.shapes.a
    names: Iterable[str] = [n for n in [*node.input, *node.output] if n in ranks]
    return any(mask.gone_at(n, i) is not None for n in names for i in range(len(ranks[n])))


# -- a failing seed, made small -------------------------------------------------------------------


@dataclass(frozen=True)
class Reproducer:
    """The smallest graph and set of units found that still fail as a seed did."""

    model: ModelProto
    units: Units
    error: str


def smallest(seed: int) -> Reproducer | None:
    """Leave out the last steps of a failing seed's graph, then units; None where it does not fail."""
    for steps in [*range(STEPS), None]:
        model = random_model(seed, steps=steps)
        graph = Graph.from_model(model)
        analysis = analyse(graph)
        for again in range(4):
            units = chosen_units(analysis, seed + again * 1_000_000)
            if failure(graph, analysis, units) is not None:
                return _fewer(model, graph, analysis, units)
    return None


def failure(graph: Graph, analysis: Analysis, units: Units) -> str | None:
    """Why removing these units fails; None when it is proved."""
    try:
        proved(graph, analysis.mask(units))
    except Exception as error:  # noqa: BLE001  # what fails is the question
        return f"{type(error).__name__}: {error}"
    return None


def _fewer(model: ModelProto, graph: Graph, analysis: Analysis, units: Units) -> Reproducer:
    """Drop units, halves first, as long as it fails."""
    size = max(1, len(units) // 2)
    while True:
        parts = [np.delete(units, slice(i, i + size)) for i in range(0, len(units), size)]
        smaller = next((p for p in parts if len(p) and failure(graph, analysis, p)), None)
        if smaller is not None:
            units = smaller
        elif size == 1:
            return Reproducer(model, units, failure(graph, analysis, units) or "")
        size = max(1, min(size // 2 if smaller is None else size, len(units) // 2))
