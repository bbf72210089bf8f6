"""What `inspect` prints: fits 80 columns, says more where there are 100 and more."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.console import Group as Lines
from rich.markup import escape
from rich.table import Table

from ..plan import Change
from ..structure.rest import FrozenView
from .blocks import blocks_table
from .groups import GroupView, PlaceView, Ranges
from .overview import Overview
from .words import amount, inputs, kept, size

_WIDE = 100  # columns
KINDS = {
    "inner": "one operator writes its units",
    "stream": "several operators write into the same units",
    "grid": "one of the factors of an axis: heads and their dimensions, groups of a convolution",
    "input": "unlocked input",
    "output": "unlocked output",
    "vocabulary": "unlocked vocabulary",
}
_MOST_SHOWN = 3  # ranges of one slice


def overview_report(view: Overview) -> RenderableType:
    """Return what can be removed and what cannot."""
    parts: list[RenderableType] = []
    if view.groups:
        parts += [_Groups(view), *_legend(view.groups)]
    parts += _reasons("frozen: the outputs of these weights stay", view.frozen)
    parts += _reasons("opaque: all that these nodes touch stays", view.opaque)
    if view.blocks is not None:
        parts.append(blocks_table(view.blocks, view.total.params, view.total.macs))
    parts.append(_figures(view))
    return Lines(*parts, f"[dim]one run of {escape(inputs(view.inputs))}[/]")


@dataclasses.dataclass(frozen=True)
class _Groups:
    """The table of groups, as wide as there is room for."""

    view: Overview

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Leave columns out where the line is short."""
        wide = options.max_width >= _WIDE
        table = _table(f"{self.view.model.name}: what can be removed")
        table.add_column("group", overflow="fold")
        table.add_column("kind", no_wrap=True)
        numbers = ["units", *(["weights", "written", "read"] if wide else [])]
        numbers += ["MACs", *(["a unit"] if wide else []), "params", *(["a unit"] if wide else [])]
        for name in numbers:
            table.add_column(name, justify="right", no_wrap=True)
        for g in self.view.groups:
            source = f"\n[dim]{escape(g.source)}[/]" if g.source else ""
            table.add_row(
                f"{escape(g.name)}{source}", f"{g.kind}{'' if g.exact else '*'}", *_numbers(g, wide)
            )
        yield table


def _numbers(group: GroupView, wide: bool) -> Iterator[str]:
    yield group.count
    if wide:
        yield from map(str, (len(group.places), group.writers, group.readers))
    for whole, one in ((group.macs, group.unit_macs), (group.params, group.unit_params)):
        yield amount(whole)
        if wide:
            yield amount(one)


def _legend(groups: Iterable[GroupView]) -> Iterator[str]:
    kinds = dict.fromkeys(g.kind for g in groups)
    yield "\n".join(f"[dim]{kind}: {KINDS[kind]}[/]" for kind in kinds)
    if any(not g.exact for g in groups):
        yield "[dim]* statistics (LayerNormalization, means) run over what is left of it[/]"
    yield ""


def _table(title: str) -> Table:
    return Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def _reasons(title: str, views: tuple[FrozenView, ...]) -> list[Table]:
    if not views:
        return []
    table = _table(title)
    table.add_column("why", overflow="fold")
    table.add_column("places", justify="right", no_wrap=True)
    table.add_column("for example", overflow="fold")
    for v in views:
        table.add_row(escape(v.reason), str(v.count), escape(v.told()))
    return [table]


def _figures(view: Overview) -> Table:
    table = _table("the whole model")
    table.add_column("")
    for name in ("now", "least reachable", ""):
        table.add_column(name, justify="right", no_wrap=True)
    figures = {"macs": ("MACs", amount), "params": ("parameters", amount), "size": ("file", size)}
    for name, (label, write) in figures.items():
        change = Change(getattr(view.total, name), getattr(view.least, name))
        table.add_row(label, write(change.before), write(change.after), kept(change))
    return table


def group_report(groups: list[GroupView]) -> RenderableType:
    """Return all that goes with some groups: every slice of every weight."""
    parts: list[RenderableType] = []
    for g in groups:
        how = "removal is exact" if g.exact else "statistics run over what is left"
        parts.append(
            f"[bold]{escape(g.name)}[/]: {g.units} units, {KINDS[g.kind]}; {how}\n"
            f"all: {amount(g.macs)} MACs, {amount(g.params)} parameters; "
            f"a unit: {amount(g.unit_macs)} MACs, {amount(g.unit_params)} parameters"
        )
        table = _table("what goes with it")
        table.add_column("weight", overflow="fold")
        for name in ("axis", "of"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("role", no_wrap=True)
        table.add_column("first unit", overflow="fold")
        table.add_column("last unit", overflow="fold")
        for p in g.places:
            table.add_row(escape(p.tensor), *_place(p))
        parts.append(table)
    return Lines(*parts)


def _place(place: PlaceView) -> Iterator[str]:
    yield from (str(place.axis), str(place.length), place.role)
    yield from map(slices, (place.first, place.last))


def slices(ranges: Ranges) -> str:
    """Write positions as numpy does: 3, 8:16.

    >>> slices(((3, 4), (8, 16)))
    '3, 8:16'
    """
    texts = [str(a) if b == a + 1 else f"{a}:{b}" for a, b in ranges[:_MOST_SHOWN]]
    rest = len(ranges) - len(texts)
    return ", ".join([*texts, f"and {rest} more"] if rest else texts)
