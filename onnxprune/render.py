"""Reports as tables for people; every number has its unit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from .demo import Demo
from .evaluate import Accuracy, Evaluation
from .latency import Latency, Timing
from .overview import FrozenView, Overview
from .planfile import Change
from .recheck import Verification
from .report import PruneReport
from .verify import Proof

_SHOWN_FROM = 0.1  # seconds
_NOISY = 1.5  # third over first quartile of latency
_MOST_ROWS = 40  # groups; the rest is summed up in one row unless asked for


def prune_report(report: PruneReport, *, every: bool = False) -> RenderableType:
    """Return before and after of a prune; `every` lists groups that kept all."""
    written = {"macs": ("MACs", amount), "params": ("parameters", amount), "bytes": ("file", size)}
    rows = []
    for name, (label, write) in written.items():
        change = report.figures[name]
        rows.append((label, write(change.before), write(change.after), _less(change)))
    if report.latency is not None:
        rows.append(_latency_row(report.latency))
    if report.evaluation is not None:
        rows += _accuracy_rows(report.evaluation)
    table = Table("", "before", "after", "")
    for column in table.columns[1:3]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    return Lines(_title(report), _widths(report, every=every), table, *_findings(report))


def _title(report: PruneReport) -> str:
    repair = "no repair" if report.repair == "none" else f"{report.repair} repair"
    return f"[bold]{escape(report.model.name)}[/]: {escape(report.asked)}, {report.criterion}, {repair}"


def _latency_row(times: Latency) -> tuple[str, str, str, str]:
    noisy = max(t.high / t.low for t in (times.before, times.after)) > _NOISY
    change = f"{times.speedup:.2f}x as fast{' (noisy machine)' if noisy else ''}"
    return "latency", _timing(times.before), _timing(times.after), change


def _timing(timing: Timing) -> str:
    return f"{timing.median:.3g} ms"


def _accuracy_rows(evaluation: Evaluation) -> list[tuple[str, str, str, str]]:
    before, after = evaluation.reference, evaluation.accuracy
    if before is None or after is None:
        return []
    rows = [("accuracy", share(before.top1), share(after.top1), _points(before.top1, after.top1))]
    if before.top5 is not None and after.top5 is not None:
        rows.append(
            ("top 5", share(before.top5), share(after.top5), _points(before.top5, after.top5))
        )
    return rows


def _points(before: float, after: float) -> str:
    return f"{100 * (after - before):+.2f} points"


def _widths(report: PruneReport, *, every: bool) -> Table:
    shown = [w for w in report.widths if every or w.units.after < w.units.before]
    table = Table("group", "units", "channels", "kept", title="widths")
    for column in table.columns[1:]:
        column.justify = "right"
    for width in shown if every else shown[:_MOST_ROWS]:
        table.add_row(
            escape(width.name), _arrow(width.units), _arrow(width.channels), _kept(width.units)
        )
    if len(shown) > _MOST_ROWS and not every:
        rest = shown[_MOST_ROWS:]
        units = Change(sum(w.units.before for w in rest), sum(w.units.after for w in rest))
        table.add_row(f"{len(rest)} more, see -v", _arrow(units), "", _kept(units))
    if whole := len(report.widths) - len(shown):
        table.caption = f"{whole} more groups keep all their units"
    return table


def _findings(report: PruneReport) -> Iterable[str]:
    yield f"[dim]one run of {_inputs(report.inputs)}[/]"
    if report.proof is not None:
        yield _proved(report.proof)
    elif report.output is not None:
        yield "[yellow]not proved[/]: --no-verify"
    if report.evaluation is not None:
        yield f"on {report.held_out} held-out samples: {likeness(report.evaluation)}"
    for note in report.notes:
        yield f"[yellow]note[/]: {escape(note)}"
    slow = ", ".join(f"{step} {t:.1f}" for step, t in report.seconds.items() if t >= _SHOWN_FROM)
    yield f"[dim]{sum(report.seconds.values()):.1f} s{f': {slow}' if slow else ''}[/]"
    if report.output is not None:
        yield f"wrote {escape(str(report.output))} and {escape(str(report.plan))}"
    else:
        yield f"wrote {escape(str(report.plan))} only (dry run)"


def likeness(evaluation: Evaluation) -> str:
    """Say how like the reference a model is, in words."""
    parts = []
    if evaluation.agreement is not None:
        parts.append(f"{share(evaluation.agreement)} agree with the original")
    if evaluation.error is not None:
        parts.append(f"outputs differ by {share(evaluation.error)}" if math.isfinite(evaluation.error)
                     else "outputs have other shapes")  # fmt: skip
    return ", ".join(parts) or "no reference"


def evaluation_report(evaluation: Evaluation) -> RenderableType:
    """Return accuracy and likeness."""
    table = Table("", "model", title=f"{evaluation.samples} samples")
    if evaluation.reference is not None:
        table.add_column("reference")
    for name in ("top1", "top5"):
        values = [
            _share_of(a, name) for a in (evaluation.accuracy, evaluation.reference) if a is not None
        ]
        if any(values):
            table.add_row("accuracy" if name == "top1" else "top 5", *values)
    if evaluation.agreement is not None:
        table.add_row("agreement", share(evaluation.agreement))
    for output, error in evaluation.errors.items():
        table.add_row(
            f"error of '{escape(output)}'", share(error) if math.isfinite(error) else "other shape"
        )
    return table


def verification_report(found: Verification) -> RenderableType:
    """Return what a check of a pruned file found."""
    lines = [
        f"{escape(str(found.model))} has the planned structure ({found.weights} weights), is valid and runs"
    ]
    if found.proof is not None:
        lines.append(_proved(found.proof))
    return Lines(*lines, *(f"[yellow]note[/]: {escape(note)}" for note in found.notes))


def demo_report(found: Demo, *, every: bool = False) -> RenderableType:
    """Return what the demo did, and accuracy on test digits."""
    table = Table(
        "", "before", "after", "", title=f"{found.test.samples} test digits, never used before"
    )
    for row in _accuracy_rows(found.test):
        table.add_row(*row)
    return Lines(prune_report(found.report, every=every), table)


def _proved(proof: Proof) -> str:
    return (
        f"[green]proved[/]: equal to the original with the removed parts silenced, within {proof.gap:.1e} "
        f"(allowed {proof.tolerance:.0e}), on {proof.runs} inputs"
    )


def _share_of(accuracy: Accuracy, name: str) -> str:
    value = getattr(accuracy, name)
    return "" if value is None else share(value)


def overview_report(view: Overview) -> RenderableType:
    """Return what can be removed and what cannot."""
    groups = Table("group", "kind", "units", "width", "weights", "readers", "MACs", "parameters",
                   title=f"{escape(view.model.name)}: what can be removed")  # fmt: skip
    for column in groups.columns[2:]:
        column.justify = "right"
    for group in view.groups:
        groups.add_row(escape(group.name), group.kind, str(group.units), str(group.width), str(group.members),
                       str(group.readers), amount(group.macs), amount(group.params))  # fmt: skip
    parts: list[RenderableType] = [groups] if view.groups else []
    parts += [_reasons("frozen: outputs of these weights stay", view.frozen)] if view.frozen else []
    parts += (
        [_reasons("opaque: all that these nodes touch stays", view.opaque)] if view.opaque else []
    )
    total = Table("", "now", "least reachable", "", title="totals")
    for label, write, name in (
        ("MACs", amount, "macs"),
        ("parameters", amount, "params"),
        ("bytes", size, "size"),
    ):
        change = Change(getattr(view.total, name), getattr(view.least, name))
        total.add_row(label, write(change.before), write(change.after), _kept(change))
    return Lines(*parts, total, f"[dim]one run of {_inputs(view.inputs)}[/]")


def _reasons(title: str, views: Iterable[FrozenView]) -> Table:
    table = Table("why", "places", "for example", title=title)
    for view in views:
        more = ", ..." if view.count > len(view.examples) else ""
        table.add_row(escape(view.reason), str(view.count), escape(", ".join(view.examples) + more))
    return table


def listing(title: str, entries: Mapping[str, str]) -> Table:
    """Return a table of names and what they are."""
    table = Table(title, "what")
    for name, text in entries.items():
        table.add_row(escape(name), escape(text))
    return table


def _inputs(inputs: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(
        f"{escape(name)} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in inputs.items()
    )


def amount(value: float) -> str:
    """Write a count: 4.09 G, 25.6 M, 640.

    >>> amount(25_557_032)
    '25.6 M'
    """
    for prefix, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {prefix}"
    return f"{value:.0f}"


def size(value: float) -> str:
    """Write bytes: 102 MB."""
    return f"{amount(value)}B" if value >= 1000 else f"{value:.0f} B"


def share(value: float) -> str:
    """Write a share: 93.39 %."""
    return f"{100 * value:.2f} %"


def _arrow(change: Change) -> str:
    return (
        f"{change.before:.0f} -> {change.after:.0f}"
        if change.after != change.before
        else f"{change.before:.0f}"
    )


def _kept(change: Change) -> str:
    return f"{100 * change.after / change.before:.0f} %" if change.before else ""


def _less(change: Change) -> str:
    return f"{change.before / change.after:.2f}x less" if change.after else ""
