"""Scores as a table: per criterion and group the range, and how much the criterion itself would keep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Group as Lines
from rich.console import RenderableType
from rich.markup import escape

from ..plan import RankedGroup, Scored, ScoredGroup, Scores
from .render import notes, table

_MOST_ROWS = 40  # groups per criterion


def scores_report(scores: Scores, path: Path, *, every: bool = False) -> RenderableType:
    """Return one table per criterion; `every` lists all groups."""
    samples = scores.data.samples if scores.data else 0
    title = (
        f"[bold]{escape(scores.model.name)}[/]: {sum(len(g.units) for g in scores.groups)} units in "
        f"{len(scores.groups)} groups, {samples or 'no'} samples"
    )
    tables = [_table(scores, scored, every=every) for scored in scores.criteria]
    said = [n for scored in scores.criteria for ranked in scored.groups for n in ranked.notes]
    told = notes(tuple(dict.fromkeys([*said, *scores.notes])))
    return Lines(title, *tables, *told, f"wrote {escape(str(path))}")


def _table(scores: Scores, scored: Scored, *, every: bool) -> RenderableType:
    pairs = list(zip(scores.groups, scored.groups, strict=True))
    shown = pairs if every else pairs[:_MOST_ROWS]
    rows = [_row(group, ranked) for group, ranked in shown]
    if left := len(pairs) - len(shown):
        rows.append((f"{left} more, see -v", *[""] * 6))
    label = scored.label(scores.criteria)
    title = label if scored.comparable else f"{label} (to be compared within a group only)"
    return table(
        "group",
        "kind",
        "units",
        "least",
        "median",
        "most",
        "keeps",
        rows=rows,
        title=title,
        texts=2,
    )


def _row(group: ScoredGroup, ranked: RankedGroup) -> tuple[str, ...]:
    values = np.array(ranked.scores)
    numbers = (f"{value:.3g}" for value in (values.min(), np.median(values), values.max()))
    keeps = "" if ranked.count is None else str(ranked.count)
    return (group.name, group.kind, str(len(values)), *numbers, keeps)
