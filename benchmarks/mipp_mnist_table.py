"""Tables of `mipp_mnist.py`: runs in steps of 5 % of the nodes removed, as in the paper's figure 3."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from rich.box import MARKDOWN
from rich.table import Table

CHANCE = 0.15  # the most frequent digit is 11.35 % of the test images


class Run(Protocol):
    """What is shown of one run: see `mipp_mnist.Row`."""

    state: str
    seed: int
    criterion: str
    level: int
    removed: float
    widths: tuple[int, ...]
    before: float
    after: float
    features: tuple[int, ...]


def tables(rows: Sequence[Run]) -> Iterator[Table]:
    """Yield a table per state: accuracy after retraining, and the share that collapsed."""
    criteria = list(dict.fromkeys(row.criterion for row in rows))
    for state in dict.fromkeys(row.state for row in rows):
        mine = [row for row in rows if row.state == state and row.removed > 0]
        title = f"{state}: mean accuracy after retraining, % (runs; collapsed %)"
        table = Table("nodes removed", *criteria, box=MARKDOWN, title=title)
        for step in sorted({_step(row) for row in mine}):
            cells = [
                _cell([r for r in mine if r.criterion == c and _step(r) == step]) for c in criteria
            ]
            table.add_row(f"{step} to {step + 5} %", *cells)
        yield table


def _step(row: Run) -> int:
    return min(int(row.removed * 100 // 5 * 5), 95)


def _cell(rows: Sequence[Run]) -> str:
    if not rows:
        return ""
    after = np.array([row.after for row in rows])
    return f"{after.mean():.1%} ({len(rows)}; {np.mean(after < CHANCE):.0%})"


def feature_table(rows: Sequence[Run], levels: Sequence[str]) -> Table:
    """Return per level what is left of pixels and nodes, and accuracies."""
    table = Table("network", "criterion", "pixels left", "of them within 4 of the border",
                  "nodes left", "accuracy as pruned", "retrained", box=MARKDOWN)  # fmt: skip
    for state, level in sorted({(row.state, row.level) for row in rows}):
        same = [row for row in rows if (row.state, row.level) == (state, level)]
        means = [
            np.mean([len(row.features) for row in same]),
            np.mean([_outside(row.features) for row in same]),
        ]
        nodes = np.mean([sum(row.widths) for row in same])
        table.add_row(
            state, levels[level], *(f"{m:.0f}" for m in means), f"{nodes:.0f}",
            *(f"{np.mean([getattr(row, name) for row in same]):.1%}" for name in ("before", "after")),
        )  # fmt: skip
    return table


def _outside(features: Sequence[int]) -> int:
    places = np.array(features)
    rows, columns = places // 28, places % 28
    return int((np.minimum.reduce([rows, columns, 27 - rows, 27 - columns]) < 4).sum())


def picture(features: Sequence[int]) -> str:
    """Return the kept pixels as text, one line per row of the image."""
    marks = np.full(784, ".")
    marks[list(features)] = "#"
    return "\n".join("".join(line) for line in marks.reshape(28, 28))
