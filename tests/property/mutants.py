"""Every declaration of every rule, broken one at a time: would anybody notice?

For each rule the examples are run in several settings: each node by itself, on operands made of tables
of weights, whose every axis may shrink by its own; the whole example on such a table, and on what a
linear operator writes; with readers of its results, or with results that are unlocked graph outputs.
What the rule says of the example's nodes is mutated: one thing said is left out, moved by one
position, or exchanged with its neighbour. A mutant is caught when removing units then fails in
analysis, in surgery or in the proof, on some example.
"""

from __future__ import annotations

import copy
import dataclasses
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from onnxprune.core.analysis import Analysis
from onnxprune.core.declared import (
    Record,
)
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.graph import Graph
from onnxprune.core.positions import Space
from onnxprune.core.rules import OP_RULES, Example, NodeView, OpRule
from onnxprune.passes.surgery.channels import remove_channels
from onnxprune.proof.prove import prove
from onnxprune.structure.dependency import analyse
from onnxprune.structure.normal import normalise
from onnxprune.structure.unlock import Unlock
from tests.examples import example_growth, isolated
from tests.expansion import UnfitError
from tests.property.breaks import BREAKS, RECORDED, SAID, Break, label, meaning, things_of
from tests.property.growing import some_units
from tests.property.turns import name_of
from tests.strategies import Growth, Stream

# (rule, how it is broken, what is broken): one mutant, at all places where an example says it.
Key = tuple[str, str, str]
MASKS = 4  # tried at each place
# Kernels of onnxruntime's own domain trust their operands: what is mutated may crash the process.
UNCHECKED = "com.microsoft."
_FORK = get_context("fork")


@dataclass(frozen=True)
class Subject:
    """An example in some setting: the graph, what is unlocked, and the tensors that its nodes make."""

    graph: Graph
    unlocked: tuple[Unlock, ...]
    made: frozenset[str]


@dataclass(frozen=True)
class Place:
    """Where a rule said something: a node of an example, and the how-manieth thing it was.

    `part` is the list that holds it: "couples", "protects", ... of what was said, or of the record.
    """

    rule: OpRule
    subject: Subject
    node: str
    part: str
    number: int


@dataclass(frozen=True)
class Mutant:
    """One way of breaking one declaration."""

    key: Key
    places: tuple[Place, ...]


# -- all mutants ----------------------------------------------------------------------------------


def subjects(example: Example, op_type: str) -> Iterator[Subject]:
    """Yield the example in all settings that it fits and in which it can be pruned."""
    for growth in _settings(example, op_type):
        made, bare = growth.steps[-1].made, copy.deepcopy(growth)
        closed = Subject(Graph.from_model(growth.model()), (), made)
        if trouble(closed) is None:
            yield closed
        shown = [s for s in bare.streams if s.name in made and s.rank and s.other is None]
        if shown:
            bare.streams = [s for s in bare.streams if s not in shown]
            bare.also += shown
            yield from _opened(Graph.from_model(bare.model()), shown, made)


def _settings(example: Example, op_type: str) -> Iterator[Growth]:
    opset = example.opsets[-1]
    builds: tuple[Callable[[], list[Growth]], ...] = (
        lambda: [*_isolated(example, op_type, weights_too=False)],
        lambda: [*_isolated(example, op_type, weights_too=True)],
        lambda: [example_growth(example, opset, table=True)],
        lambda: [example_growth(example, opset)],
    )
    for build in builds:
        with suppress(UnfitError):
            yield from build()


def _isolated(example: Example, op_type: str, *, weights_too: bool) -> Iterator[Growth]:
    growth = example_growth(example, example.opsets[-1])
    for node in growth.steps[-1].nodes:
        if node.op_type == op_type:
            yield isolated(growth, node, weights_too=weights_too)


def _opened(graph: Graph, shown: list[Stream], made: frozenset[str]) -> Iterator[Subject]:
    """Yield it with these outputs unlocked along every axis where that is possible."""
    wanted = [Unlock("output", f"{s.name}@{i}") for s in shown for i in range(s.rank)]
    able = tuple(u for u in wanted if trouble(Subject(graph, (u,), made), 0) is None)
    here = Subject(graph, able, made)
    if able and trouble(here) is None:
        yield here


def places(rule: OpRule) -> Iterator[tuple[Key, Place]]:
    """Yield every mutant of a rule at every place."""
    for example in rule.examples:
        for here in subjects(example, rule.op_type):
            yield from _said_in(rule, here)


def _said_in(rule: OpRule, here: Subject) -> Iterator[tuple[Key, Place]]:
    graph, shapes = normalise(here.graph)
    for index, node in enumerate(graph.nodes):
        if OP_RULES.find(node, graph.opsets) != rule or here.made.isdisjoint(node.output):
            continue

        def view(at: int = index) -> NodeView:
            result = NodeView(graph, shapes, Space(), at)
            rule.function(result)
            return result

        plain = view()
        for part in (*SAID, *RECORDED):
            for number, thing in enumerate(things_of(plain, part)):
                place = Place(rule, here, next(filter(None, node.output)), part, number)
                for how, change in BREAKS.items():
                    mutated = view()
                    if change(mutated, part, number) and meaning(mutated) != meaning(plain):
                        yield (name_of(rule), how, label(plain, part, thing)), place


def mutants(rule: OpRule) -> list[Mutant]:
    """All mutants of a rule."""
    found: dict[Key, list[Place]] = {}
    for key, place in places(rule):
        found.setdefault(key, []).append(place)
    return [Mutant(key, tuple(where)) for key, where in found.items()]


def sampled(rule: OpRule, but: Callable[[Key], bool]) -> Mutant | None:
    """One mutant of a rule at one place, always the same; none of those that `but` tells.

    None where these are all.
    """
    for example in rule.examples:
        for here in subjects(example, rule.op_type):
            found = [(k, p) for k, p in _said_in(rule, here) if not but(k)]
            if found:
                key, place = found[zlib.crc32(name_of(rule).encode()) % len(found)]
                return Mutant(key, (place,))
    return None


# -- the verdict ----------------------------------------------------------------------------------


def caught(mutant: Mutant, masks: int = MASKS) -> str | None:
    """How the mutant is noticed first; None when it survives everywhere."""
    if not mutant.key[0].startswith(UNCHECKED):
        return _caught(mutant, masks)
    ours, theirs = _FORK.Pipe(duplex=False)
    child = _FORK.Process(target=lambda: theirs.send(_caught(mutant, masks)))
    child.start()
    theirs.close()
    try:
        return ours.recv()  # type: ignore[no-any-return]
    except EOFError:
        return "onnxruntime crashes"
    finally:
        child.join()


def _caught(mutant: Mutant, masks: int) -> str | None:
    for place in mutant.places:
        with broken(place, BREAKS[mutant.key[1]]):
            if found := trouble(place.subject, masks):
                return found
    return None


@contextmanager
def broken(place: Place, change: Break) -> Iterator[None]:
    """The rule says something else of one node."""
    rules = OP_RULES._rules[place.rule.domain, place.rule.op_type]
    number = rules.index(place.rule)

    def function(view: NodeView) -> None:
        place.rule.function(view)
        if place.node in view.proto.output:
            change(view, place.part, place.number)

    rules[number] = dataclasses.replace(place.rule, function=function)
    try:
        yield
    finally:
        rules[number] = place.rule


def trouble(here: Subject, masks: int = MASKS) -> str | None:
    """What goes wrong when random units of a graph are removed; None when nothing does."""
    try:
        analysis = analyse(here.graph, here.unlocked)
        for record in analysis.records:
            if record.opaque or (complaint := _contradiction(analysis, record)):
                return record.opaque or complaint
        for seed in range(masks):
            mask = analysis.mask(some_units(analysis, np.random.default_rng(seed)))
            prove(here.graph, mask, remove_channels(mask))
    except (OnnxPruneError, ValueError, LookupError, StopIteration) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _contradiction(analysis: Analysis, record: Record) -> str | None:
    """A linear operator sums over an axis of its weight and of what it reads."""
    linear, node = record.linear, analysis.graph.nodes[record.index]
    if linear is None:
        return None
    names = list(node.input)
    summed = {(contract.slot, contract.number) for contract in record.contracts}
    told = {(names.index(linear.x), linear.x_axis), (names.index(linear.weight), linear.weight_in)}
    return None if told <= summed else "a linear operator that does not sum over what it says"
