"""Reports as tables and lines for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from ..demo import Demo
from ..measure.drop import Search
from ..measure.evaluate import Accuracy, Evaluation
from ..measure.latency import Latency
from ..measure.quantised import Quantised
from ..plan import Change, PlannedFace
from ..plan.recheck import Verification
from ..proof.prove import Proof
from .blocks import rounds
from .report import PruneReport, Width
from .words import amount, arrow, digits, inputs, kept, less, share, size

_SHOWN_FROM = 0.1  # seconds
_NOISY = 1.5  # third over first quartile of latency
_MOST_ROWS = 40  # groups; the rest is summed up in one row unless asked for
_Row = tuple[str, ...]


def table(*columns: str, rows: Iterable[_Row], title: str | None = None, texts: int = 1) -> Table:
    """Return a table whose first `texts` columns are text that may fold, the others numbers."""
    result = Table(title=None if title is None else escape(title))
    for number, name in enumerate(columns):
        if number < texts:
            result.add_column(name, overflow="fold")
        else:
            result.add_column(name, no_wrap=True, justify="right")
    for row in rows:
        result.add_row(*map(escape, row))
    return result


def prune_report(report: PruneReport, *, every: bool = False) -> RenderableType:
    """Return before and after of a prune; `every` lists all groups, also those that kept all."""
    repair = "no repair" if report.repair == "none" else f"{report.repair} repair"
    title = f"[bold]{escape(report.model.name)}[/]: {escape(report.asked)}, {report.criterion}, {repair}"
    figures = table("", "before", "after", "", rows=_figures(report))
    widths = [_widths(report, every=every)] if report.criterion != "blocks" else []
    trials = [] if report.search is None else [_trials(report, report.search)]
    then = [] if report.quantised is None else [*_in_int8(report, report.quantised)]
    return Lines(title, *_left_out(report), *widths, *trials, figures, *_findings(report), *then)


def _in_int8(report: PruneReport, found: Quantised) -> Iterator[RenderableType]:
    """Yield what the pruned file in int8 is, against the original."""
    whole = Change(report.figures["bytes"].before, found.bytes)
    rows = [
        ("file", size(whole.before), size(whole.after), less(whole)),
        latency_row(found.latency),
    ]
    if found.evaluation is not None:
        rows += accuracy_rows(found.evaluation)
    yield table("in int8, too", "before", "after", "", rows=rows)
    if found.evaluation is not None:
        yield f"on {report.held_out} held-out samples: {likeness(found.evaluation)}"
    yield f"wrote {escape(str(found.output))}"


def _trials(report: PruneReport, search: Search) -> Table:
    """Return what was tried for a limit, from mild to strong."""
    macs, params = report.figures["macs"].before, report.figures["params"].before
    numbered = sorted(enumerate(search.trials), key=lambda pair: -pair[1].asked)
    rows = [
        (
            "written" if number == search.chosen else "holds" if t.drop.holds else "too much",
            f"{t.macs / macs:.1%}",
            f"{t.params / params:.1%}",
            share(t.drop.value),
            share(t.drop.bound),
        )
        for number, t in numbered
    ]
    return table("trial", "MACs", "parameters", f"{search.metric} lost", "at most", rows=rows)


def _guarded(search: Search) -> str:
    """Say what a search found, and how sure that is."""
    made = f"{len(search.trials)} trials (every step of that size: {search.grid})"
    if not search.limit:
        return f"{made}: on {search.samples} samples nothing but rounding changes"
    sure = f"with {search.confidence:.0%} confidence" if search.confidence > 0.5 else "as measured,"
    return (
        f"{made}, judged on {search.samples} samples: {sure} the drop in {search.metric} on such "
        f"samples is at most {share(search.limit)}"
    )


def _left_out(report: PruneReport) -> Iterator[str]:
    if report.blocks:
        yield f"left out whole: {escape(', '.join(report.blocks))}"
    if report.depth is not None:
        yield from rounds(report.depth)


def _figures(report: PruneReport) -> Iterator[_Row]:
    written = {"macs": ("MACs", amount), "params": ("parameters", amount), "bytes": ("file", size)}
    for name, (label, write) in written.items():
        change = report.figures[name]
        yield label, write(change.before), write(change.after), less(change)
    if report.latency is not None:
        yield latency_row(report.latency)
    if report.evaluation is not None:
        yield from accuracy_rows(report.evaluation)


def latency_row(times: Latency) -> _Row:
    """Return the latency of both files and the speed-up."""
    noisy = max(t.high / t.low for t in (times.before, times.after)) > _NOISY
    medians = (f"{digits(t.median)} ms" for t in (times.before, times.after))
    return "latency", *medians, f"{times.speedup:.2f}x as fast{', noisy' if noisy else ''}"


def accuracy_rows(evaluation: Evaluation) -> Iterator[_Row]:
    """Yield accuracy of the reference and of the model."""
    before, after = evaluation.reference, evaluation.accuracy
    for label, name in (("accuracy", "top1"), ("top 5", "top5")):
        a, b = getattr(before, name, None), getattr(after, name, None)
        if a is not None and b is not None:
            yield label, share(a), share(b), f"{100 * (b - a):+.2f} points"


def _widths(report: PruneReport, *, every: bool) -> Table:
    changed = [w for w in report.widths if every or w.units.after < w.units.before]
    shown = changed if every else changed[:_MOST_ROWS]
    rows = [(w.name, arrow(w.units), arrow(w.channels), kept(w.units)) for w in shown]
    if rest := changed[len(shown) :]:
        units = _sum(rest)
        rows.append((f"{len(rest)} more, see -v", arrow(units), "", kept(units)))
    result = table("group", "units", "channels", "kept", rows=rows)
    if whole := len(report.widths) - len(changed):
        result.caption = f"{whole} more {'group keeps' if whole == 1 else 'groups keep'} all units"
    return result


def _sum(widths: list[Width]) -> Change:
    return Change(sum(w.units.before for w in widths), sum(w.units.after for w in widths))


def _findings(report: PruneReport) -> Iterator[str]:
    yield f"[dim]one run of {escape(inputs(report.inputs))}[/]"
    yield from map(_renumbered, report.interface)
    if report.proof is not None:
        yield _proved(report.proof)
    elif report.output is not None:
        yield "[yellow]not proved[/]: --no-verify"
    if report.evaluation is not None:
        yield f"on {report.held_out} held-out samples: {likeness(report.evaluation)}"
    if report.search is not None:
        yield _guarded(report.search)
    yield from notes(report.notes)
    slow = ", ".join(f"{step} {t:.1f}" for step, t in report.seconds.items() if t >= _SHOWN_FROM)
    yield f"[dim]{sum(report.seconds.values()):.1f} s{f': {slow}' if slow else ''}[/]"
    written = [str(p) for p in (report.output, report.plan) if p is not None]
    yield f"wrote {escape(' and '.join(written))}{'' if report.output else ' only (dry run)'}"


def _renumbered(face: PlannedFace) -> str:
    """Say how callers must count anew."""
    after = sum(stop - start for start, stop in face.kept)
    if face.kind == "vocabulary":
        where = f"ids in {' and '.join(face.ids)}: '{face.tensor}' has"
    else:
        where = f"{face.kind} '{face.tensor}': axis {face.axis} has"
    return (
        f"[bold yellow]interface changed[/]: {escape(where)} {face.size} -> {after} positions, counted "
        "anew in the order of `kept` in the plan, and in the file's metadata onnxprune.interface"
    )


def notes(texts: Iterable[str]) -> Iterator[str]:
    """Yield what a user should know."""
    yield from (f"[yellow]note[/]: {escape(text)}" for text in texts)


def _proved(proof: Proof) -> str:
    return (
        "[green]proved[/]: equal to the original with the removed parts silenced, within "
        f"{proof.gap:.1e} (allowed {proof.tolerance:.0e}), on {proof.runs} inputs"
    )


def likeness(evaluation: Evaluation) -> str:
    """Say how like the original a model is, in words."""
    parts = []
    if evaluation.agreement is not None:
        parts.append(f"{share(evaluation.agreement)} agree with the original")
    if evaluation.error is not None:
        parts.append(f"outputs differ by {_error(evaluation.error)}")
    return ", ".join(parts)


def _error(value: float) -> str:
    return share(value) if math.isfinite(value) else "their shape"


def evaluation_report(evaluation: Evaluation) -> RenderableType:
    """Return accuracy and likeness."""
    models = [evaluation.accuracy, evaluation.reference]
    head = ["model", *(["reference"] if evaluation.reference is not None else [])]
    rows = [
        (label, *(share(getattr(m, name)) for m in models if m is not None))
        for label, name in (("accuracy", "top1"), ("top 5", "top5"))
        if _has(models, name)
    ]
    if evaluation.agreement is not None:
        rows.append(("agreement with the reference", share(evaluation.agreement)))
    rows += [(f"difference of '{name}'", _error(e)) for name, e in evaluation.errors.items()]
    return table("", *head, rows=rows, title=f"{evaluation.samples} samples")


def _has(models: Iterable[Accuracy | None], name: str) -> bool:
    return any(m is not None and getattr(m, name) is not None for m in models)


def verification_report(found: Verification) -> RenderableType:
    """Return what a check of a pruned file found."""
    name = escape(str(found.model))
    lines = [f"{name} has the planned structure ({found.weights} weights), is valid and runs"]
    if found.proof is not None:
        lines.append(_proved(found.proof))
    return Lines(*lines, *notes(found.notes))


def demo_report(found: Demo, *, every: bool = False) -> RenderableType:
    """Return what the demo did, and accuracy on test digits."""
    title = f"{found.test.samples} test digits, never used before"
    test = table("", "before", "after", "", rows=accuracy_rows(found.test), title=title)
    return Lines(prune_report(found.report, every=every), test)


def listing(title: str, entries: Mapping[str, str]) -> RenderableType:
    """Return a table of names and what they are."""
    return table(title, "", rows=entries.items(), texts=2)
