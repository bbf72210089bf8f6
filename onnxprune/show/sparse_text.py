"""A sparsification as a table."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.markup import escape

from .render import accuracy_rows, latency_row, likeness, notes, table
from .sparse import SparseReport


def sparse_report(report: SparseReport) -> RenderableType:
    """Return densities before and after, and what that changed."""
    title = f"[bold]{escape(report.model.name)}[/]: --sparsity {report.sparsity}, {report.method}"
    rows = [
        (layer.name, "x".join(map(str, layer.shape)), layer.reason or "",
         f"{layer.before:.1%}", f"{layer.after:.1%}")
        for layer in report.layers
    ]  # fmt: skip
    layers = table(
        "weight", "shape", "dense because", "not zero before", "after", rows=rows, texts=3
    )
    figures = table("", "before", "after", "", rows=_figures(report))
    return Lines(title, layers, figures, *_findings(report))


def _figures(report: SparseReport) -> Iterator[tuple[str, ...]]:
    yield "weights that are not zero", f"{report.before:.1%}", f"{report.after:.1%}", ""
    yield latency_row(report.latency)
    if report.evaluation is not None:
        yield from accuracy_rows(report.evaluation)


def _findings(report: SparseReport) -> Iterator[str]:
    if report.evaluation is not None:
        yield f"on {report.held_out} held-out samples: {likeness(report.evaluation)}"
    yield (
        "checked: the same operators, and nothing but the values of these weights changed; tensors stay "
        "dense, so the file is as large as before, and as fast as the latency above says"
    )
    yield from notes(report.notes)
    yield f"wrote {escape(str(report.output))}"
