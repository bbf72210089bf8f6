"""The frontier of a sweep, as a table."""

from __future__ import annotations

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from ..pipeline.sweep import SweepReport
from ..plan import Frontier, Point
from .render import notes
from .words import digits, share


def frontier_report(report: SweepReport) -> RenderableType:
    """Return all points, the mildest first, and what they are judged by."""
    found = report.frontier
    title = (
        f"[bold]{escape(found.model.name)}[/]: {len(found.points)} files over {found.by}, "
        f"{escape(found.criterion.name)}, {escape(found.repair.name)} repair"
    )
    again = f", {report.remembered} of them remembered" if report.remembered else ""
    wrote = (
        f"wrote {len(found.points)} files with their plans{again}, and {escape(str(report.path))}"
    )
    seconds = f"[dim]{sum(report.seconds.values()):.1f} s[/]"
    return Lines(title, _table(found), said(found), *notes(found.notes), seconds, wrote)


def said(found: Frontier) -> str:
    """Say what losses are of, and how sure their bounds are."""
    sure = (
        f"at most: with {found.confidence:.0%} confidence for all files at once"
        if found.confidence > 0.5
        else "as measured"
    )
    return f"{found.metric} lost: on {found.samples} samples that no step has seen; {sure}"


def _table(found: Frontier) -> Table:
    table = Table("budget")
    asked = {point.model.name: _budget(point, found) for point in found.points}
    timed = ["times as fast", "between"] if found.milliseconds is not None else []
    own = [found.metric] if found.metric != "error" else []
    for name in ("MACs", "parameters", *timed, *own, f"{found.metric} lost", "at most"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for point in found.points:
        figures = [f"{point.macs / found.macs:.1%}", f"{point.params / found.params:.1%}"]
        beaten = "" if point.dominated is None else f"[dim]beaten by {asked[point.dominated]}[/]"
        table.add_row(asked[point.model.name], *figures, *_measured(point, found), beaten)
    return table


def _budget(point: Point, found: Frontier) -> str:
    return f"{found.by} {point.asked:g}"


def _measured(point: Point, found: Frontier) -> list[str]:
    cells = []
    if point.time is not None:
        cells = [digits(point.time.ratio), f"{point.time.low:.2f} - {point.time.high:.2f}"]
    if found.metric != "error":
        value = point.accuracy if found.metric == "accuracy" else point.agreement
        cells.append("" if value is None else share(value))
    return [*cells, share(point.lost), share(point.bound)]
