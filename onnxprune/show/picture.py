"""Who feeds whom, laid out as a log: a row per operator in the order they run, a lane per group.

A group's bar spans the rows from the first operator that touches it to the last, so a residual stream
is a long bar with the inner widths of its blocks beside it. Bars that do not overlap share a lane; the
longest come first, on the left. What stays (inputs, outputs, frozen weights) is one lane of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cached_property

from .operators import OperatorView
from .overview import Overview

ROW, LANE, BLOCK = 20, 14, 7  # pixels
_TOP, _LEFT = 12, 12
_CHARACTER = 8  # pixels of one of the 12 pixel font, at the most
_LABEL = 52  # characters
_MOST_ROWS = 1200  # operators drawn: a browser scrolls them well, and the page stays below 3 MB


@dataclasses.dataclass(frozen=True)
class Bar:
    """A group in the picture: `number` of the group, in its lane from one height to another."""

    number: int
    x: int
    top: int
    bottom: int


@dataclasses.dataclass(frozen=True)
class Mark:
    """Where an operator meets a lane.

    Attributes:
        x: of the lane.
        role: "reads", "writes" or "passes".
        number: of the group; None on the lane of what stays.
    """

    x: int
    role: str
    number: int | None


@dataclasses.dataclass(frozen=True)
class Row:
    """An operator in the picture: its marks, and the line between the outermost of them."""

    operator: OperatorView
    y: int
    marks: tuple[Mark, ...]
    start: int
    end: int

    @property
    def label(self) -> str:
        """What the operator is, by the name that says most; of a long one the end."""
        name = self.operator.module or self.operator.weight or self.operator.name
        return name if len(name) <= _LABEL else f"...{name[3 - _LABEL :]}"

    @property
    def what(self) -> str:
        """Its type, and whether what it writes stays."""
        return f"{self.operator.op}{'' if self.operator.stays is None else ', stays'}"

    @property
    def groups(self) -> str:
        """Numbers of the groups that it touches, apart by spaces."""
        return " ".join(str(m.number) for m in self.marks if m.number is not None)


@dataclasses.dataclass(frozen=True)
class Bracket:
    """A block in the picture, beside its rows; `row` is the height of the first."""

    name: str
    row: int
    x: int
    top: int
    bottom: int


@dataclasses.dataclass(frozen=True)
class Picture:
    """Bars, rows and brackets with their places in pixels."""

    bars: tuple[Bar, ...]
    rows: tuple[Row, ...]
    brackets: tuple[Bracket, ...]
    columns: tuple[int, int, int, int]  # of names, types, costs (their right edge), blocks
    left_out: int  # operators beyond the last row

    @cached_property
    def height(self) -> int:
        """Height of the picture."""
        return _TOP + ROW * len(self.rows) + ROW // 2

    @property
    def width(self) -> int:
        """Width of the picture."""
        longest = max((len(b.name) for b in self.brackets), default=0)
        return self.columns[3] + _CHARACTER * min(longest, _LABEL)

    @property
    def fixed(self) -> int:
        """Place of the lane of what stays."""
        return _LEFT


def picture_of(view: Overview) -> Picture:
    """Lay out the operators and groups of a model."""
    operators = view.operators[:_MOST_ROWS]
    spans = _spans(operators)
    lanes = _lanes(spans)
    place = {number: _LEFT + LANE * (1 + lane) for number, lane in lanes.items()}
    bars = (Bar(n, place[n], _y(first), _y(last)) for n, (first, last) in spans.items())
    rows = tuple(_row(operator, i, place) for i, operator in enumerate(operators))
    right = _LEFT + LANE * (2 + max(lanes.values(), default=0))
    brackets = tuple(_brackets(operators, right))
    names = right + BLOCK * (1 + len({b.x for b in brackets}))
    types = names + _CHARACTER * (2 + max((len(row.label) for row in rows), default=0))
    costs = types + _CHARACTER * (9 + max((len(row.what) for row in rows), default=0))
    columns = names, types, costs, costs + 2 * _CHARACTER
    return Picture(tuple(bars), rows, brackets, columns, len(view.operators) - len(operators))


def _y(row: int) -> int:
    return _TOP + ROW * row


def _spans(operators: Sequence[OperatorView]) -> dict[int, tuple[int, int]]:
    """Return the first and last row of every group."""
    spans: dict[int, tuple[int, int]] = {}
    for row, operator in enumerate(operators):
        for number in (*operator.reads, *operator.writes, *operator.passes):
            spans[number] = (spans.get(number, (row, row))[0], row)
    return spans


def _lanes(spans: dict[int, tuple[int, int]]) -> dict[int, int]:
    """Give every group the leftmost lane that is free over its rows, the longest first."""
    lanes: dict[int, int] = {}
    taken: list[list[tuple[int, int]]] = []
    for number, (first, last) in sorted(spans.items(), key=lambda s: (s[1][0] - s[1][1], s[1])):
        for lane, others in enumerate(taken):  # noqa: B007  # used behind the loop
            if all(last < a or b < first for a, b in others):
                break
        else:
            lane = len(taken)
            taken.append([])
        taken[lane].append((first, last))
        lanes[number] = lane
    return lanes


def _row(operator: OperatorView, row: int, place: dict[int, int]) -> Row:
    marks = [
        Mark(place[number], role, number)
        for role in ("passes", "reads", "writes")
        for number in getattr(operator, role)
    ]
    if not operator.reads and not operator.passes:
        marks.append(Mark(_LEFT, "reads", None))
    if operator.stays is not None or not (operator.writes or operator.passes):
        marks.append(Mark(_LEFT, "writes", None))
    places = [mark.x for mark in marks]
    return Row(operator, _y(row), tuple(marks), min(places), max(places))


def _brackets(operators: Sequence[OperatorView], right: int) -> Iterator[Bracket]:
    """Yield a bracket per block, nested ones further to the right."""
    rows: dict[str, list[int]] = {}
    depth: dict[str, int] = {}
    for row, operator in enumerate(operators):
        for level, name in enumerate(operator.blocks):
            rows.setdefault(name, []).append(row)
            depth[name] = max(depth.get(name, 0), level)
    for name, inside in rows.items():
        x = right + BLOCK * depth[name]
        yield Bracket(
            name, _y(inside[0]), x, _y(inside[0]) - ROW // 2 + 2, _y(inside[-1]) + ROW // 2 - 2
        )
