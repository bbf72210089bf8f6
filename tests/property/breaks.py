"""Ways of breaking what a rule said: one thing left out, moved, exchanged, or told in part."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from onnxprune.core.declared import Contract, LengthsOperand, Padding, Selection, ShapeOperand
from onnxprune.core.positions import Axis
from onnxprune.core.rules import NodeView

Break = Callable[[NodeView, str, int], bool]  # (view, part, number): False where it changes nothing

SAID, RECORDED = ("couples", "protects", "factors"), ("contracts", "renorms", "fixes")


def things_of(view: NodeView, part: str) -> list[object]:
    """Return the list that holds what was said, or what the record holds."""
    return getattr(view.said if part in SAID else view.record, part)  # type: ignore[no-any-return]


def label(view: NodeView, part: str, thing: object) -> str:
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
    del things_of(view, part)[number]
    return True


def all_left_out(view: NodeView, part: str, number: int) -> bool:
    """No sum over any operand is told."""
    if part != "contracts" or number or len(view.record.contracts) < 2:
        return False
    view.record.contracts.clear()
    return True


def moved(view: NodeView, part: str, number: int) -> bool:
    """Positions are off by one, round the end; factors and lists are the other way round."""
    things = things_of(view, part)
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


def meaning(view: NodeView) -> object:
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
    record = [[_told(thing) for thing in getattr(view.record, part)] for part in RECORDED]
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
        things = things_of(view, part)
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
