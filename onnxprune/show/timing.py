"""What `bench` found, as tables and lines for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from ..timing.judge import Timed
from ..timing.run import BenchReport, CellReport, Model
from .words import amount, digits, size

_MOST_KERNELS = 12
_COLOURS = {"faster": "green", "slower": "red", "no difference": "dim"}


def bench_report(report: BenchReport) -> RenderableType:
    """Return sizes, times per cell, kernels, and what they mean."""
    machine = report.machine
    where = (
        f"[dim]{escape(machine.processor)}, {machine.cores} cores, {report.provider}, onnxruntime "
        f"{machine.onnxruntime}; ratios at {100 * report.confidence:g} % confidence[/]"
    )
    kernels = [_kernels(report)] if report.kernels else []
    notes = (f"[yellow]note[/]: {escape(note)}" for note in report.notes)
    return Lines(_models(report), *_cells(report), *kernels, where, *notes, *_findings(report))


def _models(report: BenchReport) -> Table:
    table = Table("model", title="models, each in a process of its own")
    for name in ("MACs", "parameters", "file", "load", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    for model in report.models:
        memory = "" if model.memory is None else size(model.memory)
        table.add_row(
            escape(model.path.name), amount(model.macs), amount(model.params), size(model.bytes),
            f"{digits(model.load)} ms", memory,
        )  # fmt: skip
    return table


def _cells(report: BenchReport) -> Iterator[Table]:
    for cell in report.cells:
        table = Table("model", title=_setting(cell))
        for name in ("median", "quartiles", "times as fast", "between", "runs"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("")
        for number, (model, timed) in enumerate(zip(report.models, cell.models, strict=True)):
            table.add_row(escape(model.path.name), *_times(timed), *_ratio(timed, first=not number))
        yield table


def _setting(cell: CellReport) -> str:
    threads = f"{cell.threads} threads" if cell.threads > 1 else "1 thread"
    return f"batch {cell.batch}, {threads if cell.threads else 'threads as onnxruntime chooses'}"


def _times(timed: Timed) -> tuple[str, str]:
    return f"{digits(timed.median)} ms", f"{digits(timed.low)} - {digits(timed.high)}"


def _ratio(timed: Timed, *, first: bool) -> tuple[str, ...]:
    if first:
        return "", "", str(timed.runs), ""
    low, high = timed.between
    colour = _COLOURS[timed.verdict]
    return (
        f"{timed.ratio:.3f}", f"{low:.3f} - {high:.3f}", str(timed.runs),
        f"[{colour}]{timed.verdict}[/]",
    )  # fmt: skip


def _kernels(report: BenchReport) -> Table:
    """One row per kind of kernel, microseconds per run; what is left is summed up in one row."""
    table = Table("kernel", title="microseconds per run by kernel, first cell")
    for model in report.models:
        table.add_column(escape(_short(model)), justify="right", no_wrap=True)
    rows = list(report.kernels.items())
    for op, times in rows[:_MOST_KERNELS]:
        table.add_row(escape(op), *(f"{time:.0f}" for time in times))
    if rest := rows[_MOST_KERNELS:]:
        sums = [sum(column) for column in zip(*(times for _, times in rest), strict=True)]
        table.add_row(f"{len(rest)} more", *(f"{time:.0f}" for time in sums))
    return table


def _findings(report: BenchReport) -> Iterator[str]:
    """Say what holds up each model that does less work than the first."""
    for model in report.models[1:]:
        for found in model.findings if model.macs < report.models[0].macs else ():
            yield (
                f"{escape(_short(model))}: {100 * found.share:.0f} % of its time, where it is slower than "
                f"its MACs say: {escape(found.cause)} ({escape(', '.join(found.nodes))}). "
                f"[bold]{escape(found.advice)}[/]"
            )


def _short(model: Model) -> str:
    return model.path.stem
