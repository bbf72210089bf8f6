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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from onnxprune.core.analysis import Analysis
from onnxprune.core.declared import (
    Contract,
    LengthsOperand,
    Padding,
    Record,
    Selection,
    ShapeOperand,
)
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.graph import Graph
from onnxprune.core.positions import Axis, Space
from onnxprune.core.rules import OP_RULES, Example, NodeView, OpRule
from onnxprune.passes.surgery.channels import remove_channels
from onnxprune.proof.prove import prove
from onnxprune.structure.dependency import analyse
from onnxprune.structure.normal import normalise
from onnxprune.structure.unlock import Unlock
from tests.property.growing import some_units
from tests.property.turns import name_of
from tests.strategies import Growth, Stream, UnfitError, example_growth, isolated

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


Break = Callable[[NodeView, str, int], bool]  # (view, part, number): False where it changes nothing


# -- what is said ---------------------------------------------------------------------------------

_SAID, _RECORDED = ("couples", "protects", "factors"), ("contracts", "renorms", "fixes")


def _list(view: NodeView, part: str) -> list[object]:
    return getattr(view.said if part in _SAID else view.record, part)  # type: ignore[no-any-return]


def _label(view: NodeView, part: str, thing: object) -> str:
    """What is broken, in words that are the same on all examples of a rule."""

    def axis(a: Axis) -> str:
        tensor, number = view.space.owners[a.id]
        some = "" if a.index is None else "[part]"
        if number < 0:
            return tensor.rpartition(":")[2] + some
        for letter, names in (("x", view.proto.input), ("y", view.proto.output)):
            if tensor in names:
                return f"{letter}{list(names).index(tensor)}.{number}{some}"
        return f"{tensor}.{number}{some}"

    def words(value: object) -> str:
        if isinstance(value, Axis):
            return axis(value)
        if isinstance(value, tuple):
            return " ".join(filter(None, map(words, value)))
        if dataclasses.is_dataclass(value):
            return " ".join(
                filter(None, (words(getattr(value, f.name)) for f in dataclasses.fields(value)))
            )
        return value if isinstance(value, str) and part == "fixes" else ""

    kind = type(thing).__name__ if part == "fixes" else part.removesuffix("s")
    return f"{kind} {words(thing)}".strip()


# -- how it is broken -----------------------------------------------------------------------------


def left_out(view: NodeView, part: str, number: int) -> bool:
    """Nothing is said."""
    if part == "protects":  # often said twice
        axis = view.said.protects[number][0]
        told = _told(axis)
        view.said.protects = [p for p in view.said.protects if _told(p[0]) != told]
        return True
    if part == "renorms":
        gone = {axis.id for axis in view.record.renorms[number].axes}
        view.said.renorms = [axis for axis in view.said.renorms if axis.id not in gone]
    del _list(view, part)[number]
    return True


def all_left_out(view: NodeView, part: str, number: int) -> bool:
    """No sum over any operand is told."""
    if part != "contracts" or number or len(view.record.contracts) < 2:
        return False
    view.record.contracts.clear()
    return True


def moved(view: NodeView, part: str, number: int) -> bool:
    """Positions are off by one, round the end; factors and lists are the other way round."""
    things = _list(view, part)
    thing = things[number]
    match thing:
        case (Axis() as a, Axis() as b) if part == "couples" and not _stays(view, a, b):
            if a.id == b.id or b.size == 1:
                return False
            things[number] = (a, b.at(np.roll(np.arange(b.size), 1)))
        case (Axis() as flat, tuple() as parts):
            things[number] = (flat, parts[::-1])
        case Selection():
            things[number] = dataclasses.replace(thing, index=np.roll(thing.index, 1))
        case Padding():
            things[number] = dataclasses.replace(thing, before=thing.after, after=thing.before)
        case ShapeOperand() | LengthsOperand():
            things[number] = dataclasses.replace(thing, axes=thing.axes[1:] + thing.axes[:1])
        case _:
            return False
    return _told(things[number]) != _told(thing)


def _stays(view: NodeView, *axes: Axis) -> bool:
    """Whether one of these stays by other couples, so that it does not matter which are alike."""
    told = {*map(_told, axes)}
    others = [pair for pair in view.said.couples if {*map(_told, pair)} != told]
    find = _classes(others)
    whole = {axis.id for axis, _ in view.said.protects if axis.index is None}
    held = {find(axis) for axis in whole - view.said.reserved}
    return any(find(axis.id) in held for axis in axes)


def _classes(couples: Sequence[tuple[Axis, Axis]]) -> Callable[[int], int]:
    """What tells the representative of an axis among those that whole couples make one."""
    root: dict[int, int] = {}

    def find(axis: int) -> int:
        while axis in root:
            axis = root[axis]
        return axis

    for a, b in couples:
        if a.index is None and b.index is None and find(a.id) != find(b.id):
            root[max(find(a.id), find(b.id))] = min(find(a.id), find(b.id))
    return find


def _meaning(view: NodeView) -> object:
    """All that was said, where it does not matter which of several equalities say that axes are one."""
    find = _classes(view.said.couples)
    whole = [axis.id for axis, _ in view.said.protects if axis.index is None]
    held = {find(axis) for axis in whole if axis not in view.said.reserved}
    coupled = {axis.id for pair in view.said.couples for axis in pair if axis.index is None}
    spoken = coupled | {*whole}
    one = sorted((axis, -1 if find(axis) in held else find(axis)) for axis in spoken)
    kept = sorted(find(axis) for axis in view.said.reserved.intersection(whole))
    some = [_told(axis) for axis, _ in view.said.protects if axis.index is not None]
    parts = [_told((a, b)) for a, b in view.said.couples if not (a.index is b.index is None)]
    record = [[_told(thing) for thing in getattr(view.record, part)] for part in _RECORDED]
    return one, kept, some, parts, _told(tuple(view.said.factors)), record


def _told(value: object) -> object:
    """What can be compared of something said: arrays as bytes."""
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if dataclasses.is_dataclass(value):
        return tuple(_told(getattr(value, f.name)) for f in dataclasses.fields(value))
    return tuple(map(_told, value)) if isinstance(value, tuple) else value


def exchanged(view: NodeView, part: str, number: int) -> bool:
    """The right side of an equality is that of the next one of equal length."""
    if part != "couples":
        return False
    couples = view.said.couples
    a, b = couples[number]
    if _stays(view, a, b):
        return False
    rest: Iterable[int] = range(number + 1, len(couples))
    rest = (k for k in rest if couples[k][1].size == b.size and not _stays(view, *couples[k]))
    known = _told(a), _told(b)
    other = next((k for k in rest if not {*map(_told, couples[k])} & {*known}), None)
    if other is None:
        return False
    couples[number], couples[other] = (a, couples[other][1]), (couples[other][0], b)
    return True


def summed(view: NodeView, part: str, number: int) -> bool:
    """Statistics are taken for a sum."""
    if part != "renorms":
        return False
    renorm = view.record.renorms[number]
    left_out(view, part, number)
    pairs = zip(renorm.numbers, renorm.axes, strict=True)
    view.record.contracts += [Contract(renorm.slot, n, axis) for n, axis in pairs]
    return True


def _without(name: str) -> Break:
    def formless(view: NodeView, part: str, number: int) -> bool:
        things = _list(view, part)
        thing = things[number]
        if not (isinstance(thing, (Contract,)) or part == "renorms"):
            return False
        field = next((f for f in dataclasses.fields(thing) if f.name == name), None)  # type: ignore[arg-type]
        if field is None or getattr(thing, name) == field.default:
            return False
        things[number] = dataclasses.replace(thing, **{name: field.default})  # type: ignore[type-var]
        return True

    formless.__doc__ = f"`{name}` is not told."
    return formless


BREAKS: Mapping[str, Break] = {
    "left out": left_out,
    "all left out": all_left_out,
    "moved": moved,
    "exchanged": exchanged,
    "summed": summed,
    **{f"without {n}": _without(n) for n in ("zero", "masked", "added", "affine", "epsilon")},
}


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
        for part in (*_SAID, *_RECORDED):
            for number, thing in enumerate(_list(plain, part)):
                place = Place(rule, here, next(filter(None, node.output)), part, number)
                for how, change in BREAKS.items():
                    mutated = view()
                    if change(mutated, part, number) and _meaning(mutated) != _meaning(plain):
                        yield (name_of(rule), how, _label(plain, part, thing)), place


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
