"""Damage to the bytes of a file, blind or along the lines of the protobuf wire format."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from tests.hostile.bases import any_content, any_model
from tests.hostile.registry import Rng, choose, kind, write

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_HUGE = (2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
# model.graph, graph.node, node.attribute, attribute.g, graph.initializer
_GRAPH, _NODE, _ATTRIBUTE, _BODY, _INITIALIZER = 7, 1, 5, 6, 5


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a message: its number and wire type, and where it lies.

    Attributes:
        start, body, end: of the tag, of the value (behind the length of bytes), and behind it.
    """

    number: int
    type: int
    start: int
    body: int
    end: int


def varint(value: int) -> bytes:
    """Encode an unsigned number."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def packed(number: int, value: bytes) -> bytes:
    """Encode a field of bytes, strings or messages."""
    return varint(number << 3 | _BYTES) + varint(len(value)) + value


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at


def fields(data: bytes, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message in data[start:end]; stops where it is none."""
    at = start
    while at < end:
        try:
            tag, body = _read_varint(data, at)
            number, wire = tag >> 3, tag & 7
            if wire == _VARINT:
                stop = _read_varint(data, body)[1]
            elif wire == _BYTES:
                length, body = _read_varint(data, body)
                stop = body + length
            else:
                stop = body + {_FIXED64: 8, _FIXED32: 4}[wire]
        except (IndexError, KeyError):
            return
        if not number or stop > end:
            return
        yield Field(number, wire, at, body, stop)
        at = stop


def any_field(data: bytes, rng: Rng) -> Field:
    """Return some field at some depth: half of the walk stops at each level."""
    start, end = 0, len(data)
    found: Field | None = None
    while True:
        here = list(fields(data, start, end))
        whole = bool(here) and here[-1].end == end
        if not whole:
            break
        found = choose(rng, here)
        if found.type != _BYTES or rng.random() < 0.3:
            break
        start, end = found.body, found.end
    assert found is not None
    return found


def replaced(data: bytes, field: Field, value: bytes) -> bytes:
    """Return `data` with other bytes for a field (lengths around it stay, mostly wrong now)."""
    return data[: field.start] + value + data[field.end :]


@kind(8)
def flipped_bits(rng: Rng, folder: Path) -> None:
    data = bytearray(any_content(rng))
    for at in rng.integers(len(data), size=int(rng.integers(1, 20))):
        data[at] ^= 1 << int(rng.integers(8))
    write(bytes(data), folder)


@kind(8)
def flipped_bits_of_the_frame(rng: Rng, folder: Path) -> None:
    """Not in the values of weights, but in names, tags, lengths and attributes."""
    data = bytearray(any_content(rng))
    places = [field.start for field in (any_field(bytes(data), rng) for _ in range(4))]
    for at in places:
        data[min(at + int(rng.integers(4)), len(data) - 1)] ^= 1 << int(rng.integers(8))
    write(bytes(data), folder)


@kind(4)
def truncated(rng: Rng, folder: Path) -> None:
    data = any_content(rng)
    write(data[: int(rng.integers(len(data)))], folder)


@kind(4)
def overwritten_run(rng: Rng, folder: Path) -> None:
    data = bytearray(any_content(rng))
    at, length = int(rng.integers(len(data))), int(rng.integers(1, 64))
    data[at : at + length] = rng.bytes(length) if rng.random() < 0.5 else bytes(length)
    write(bytes(data), folder)


@kind(4)
def spliced(rng: Rng, folder: Path) -> None:
    """The head of one file and the tail of another (or the same)."""
    a, b = any_content(rng), any_content(rng)
    write(a[: int(rng.integers(len(a)))] + b[int(rng.integers(len(b))) :], folder)


@kind(4)
def two_models_in_one(rng: Rng, folder: Path) -> None:
    """Concatenated messages merge: two graphs' nodes and names in one."""
    write(any_content(rng) + any_content(rng), folder)


@kind(6)
def repeated_field(rng: Rng, folder: Path) -> None:
    data = any_content(rng)
    field = any_field(data, rng)
    write(replaced(data, field, data[field.start : field.end] * int(rng.integers(2, 50))), folder)


@kind(6)
def dropped_field(rng: Rng, folder: Path) -> None:
    data = any_content(rng)
    write(replaced(data, any_field(data, rng), b""), folder)


@kind(6)
def huge_number(rng: Rng, folder: Path) -> None:
    """The last bytes of a varint field become an absurd number."""
    data = any_content(rng)
    for _ in range(50):
        field = any_field(data, rng)
        if field.type == _VARINT:
            break
    write(replaced(data, field, varint(field.number << 3) + varint(choose(rng, _HUGE))), folder)


@kind(4)
def wrong_length(rng: Rng, folder: Path) -> None:
    data = any_content(rng)
    field = any_field(data, rng)
    lie = choose(rng, [0, 1, field.end - field.body + 1, *_HUGE])
    value = varint(field.number << 3 | _BYTES) + varint(lie) + data[field.body : field.end]
    write(replaced(data, field, value), folder)


@kind(4)
def wrong_wire_type(rng: Rng, folder: Path) -> None:
    data = any_content(rng)
    field = any_field(data, rng)
    tag = varint(field.number << 3 | int(rng.integers(8)))
    write(replaced(data, field, tag + data[field.body : field.end]), folder)


@kind(4)
def field_of_another_number(rng: Rng, folder: Path) -> None:
    data = any_content(rng)
    field = any_field(data, rng)
    tag = varint(int(rng.integers(1, 30)) << 3 | field.type)
    rest = data[field.start + len(varint(field.number << 3)) : field.end]
    write(replaced(data, field, tag + rest), folder)


@kind()
def unending_varint(rng: Rng, folder: Path) -> None:
    data = any_content(rng)
    field = any_field(data, rng)
    write(replaced(data, field, b"\x80" * int(rng.integers(10, 5000))), folder)


@kind()
def nested_graphs(rng: Rng, folder: Path) -> None:
    """A node with a body with a node with a body ..., up to a thousand deep."""
    inner = packed(1, packed(1, b"x") + packed(2, b"y") + packed(4, b"Relu"))
    for _ in range(int(choose(rng, [5, 20, 30, 60, 200, 1000]))):
        attribute = packed(1, b"then_branch") + varint(20 << 3) + varint(5) + packed(_BODY, inner)
        other = packed(1, b"else_branch") + varint(20 << 3) + varint(5) + packed(_BODY, b"")
        node = packed(1, b"c") + packed(2, b"y") + packed(4, b"If")
        inner = packed(_NODE, node + packed(_ATTRIBUTE, attribute) + packed(_ATTRIBUTE, other))
        inner += packed(12, packed(1, b"y")) + packed(2, b"body")
    data = any_content(rng, "dense", "branches")
    write(data + packed(_GRAPH, inner), folder)


@kind()
def text_that_is_no_utf8(rng: Rng, folder: Path) -> None:
    """Names of nodes, tensors and operators in bytes that are no text."""
    model = any_model(rng)
    data = model.SerializeToString()
    node = choose(rng, list(model.graph.node))
    for name in {node.op_type, node.output[0]} if rng.random() < 0.5 else {node.output[0]}:
        data = data.replace(name.encode(), b"\xff" * len(name))
    write(data, folder)


@kind()
def control_characters(rng: Rng, folder: Path) -> None:
    """Names with line breaks, escape sequences, zeros and directions of writing."""
    model = any_model(rng)
    evil = choose(
        rng, ["a\nb\n", "\x1b[2J\x1b[31m", "a\0b", "\u202ename", "[bold]x[/nothing]", "%s{}"]
    )
    node = choose(rng, list(model.graph.node))
    old = node.output[0]
    for other in model.graph.node:
        for names in (other.input, other.output):
            for i, name in enumerate(names):
                names[i] = evil if name == old else name
    for value in model.graph.output:
        value.name = evil if value.name == old else value.name
    if rng.random() < 0.5:
        node.op_type = evil
    write(model, folder)
