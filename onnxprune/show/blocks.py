"""Which whole blocks can be left out of a model, and what they cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from ..core.blocks import Block, Kind
from ..plan import PlannedDepth
from .words import amount, share


@dataclasses.dataclass(frozen=True)
class BlockView:
    """A block, as `inspect` shows it.

    Attributes:
        name: the module it came from, else the tensor it ends in; what `--drop-block` takes.
        kind: "residual", `end = start + b(start)`; "post-norm", `end = norm(start + b(start))`.
        start, end: tensors; who reads the end would read the start.
        params: parameters that go with it.
        macs: multiply-accumulates of one run that go with it.
        nodes: how many nodes go.
        sides: other tensors that it reads: masks, tables of positions, encoder states.
        level: how many blocks it lies in.
        parent: the smallest of them.
        parts: the blocks that it consists of, where it is a whole layer of several in a row.
    """

    name: str
    kind: Kind
    start: str
    end: str
    params: float
    macs: float
    nodes: int
    sides: tuple[str, ...]
    level: int
    parent: str | None
    parts: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class BlocksView:
    """All blocks of a model.

    Attributes:
        blocks: each before those that lie in it.
        params: parameters of the blocks that lie in no other.
        macs: multiply-accumulates of one run of them.
    """

    blocks: tuple[BlockView, ...]
    params: float
    macs: float


def view_blocks(found: Sequence[Block]) -> BlocksView:
    """Describe blocks that were found with a cost model."""
    views = tuple(
        BlockView(
            b.name, b.kind, b.x, b.y, b.params, b.macs or 0.0,
            len(b.nodes), b.sides, b.level, b.parent, b.parts,
        )
        for b in found
    )  # fmt: skip
    outer = [view for view in views if view.level == 0]
    return BlocksView(views, sum(v.params for v in outer), sum(v.macs for v in outer))


def blocks_table(view: BlocksView, params: float, macs: float) -> RenderableType:
    """Return the table of blocks; `params` and `macs` are the whole model's."""
    if not view.blocks:
        return (
            "no block can be left out: nothing is a residual region with weights and a single exit"
        )
    table = Table(title="blocks: what can be left out whole (--drop-block)")
    for name in ("block", "kind", "from", "to"):
        table.add_column(name, overflow="fold")
    for name in ("parts", "nodes", "MACs", "parameters"):
        table.add_column(name, no_wrap=True, justify="right")
    for b in view.blocks:
        texts = ("  " * b.level + b.name, b.kind, b.start, b.end)
        parts = str(len(b.parts)) if b.parts else ""
        table.add_row(*map(escape, texts), parts, str(b.nodes), amount(b.macs), amount(b.params))
    held = f"{share(view.macs / max(macs, 1.0))} of the MACs, "
    held += f"{share(view.params / max(params, 1.0))} of the parameters"
    inner = sum(b.level > 0 for b in view.blocks)
    inside = f", {inner} of them in others (indented)" if inner else ""
    table.caption = f"{len(view.blocks)} blocks{inside}; together {held}"
    return table


def rounds(depth: PlannedDepth) -> Iterator[str]:
    """Say in lines of text how blocks were chosen, for the terminal."""
    for number, r in enumerate(depth.rounds, 1):
        if r.drop is not None:
            verdict = "kept" if r.accepted else "undone"
            k = f", k = {r.settings['k']}" if "k" in r.settings else ""
            lost = f"{100 * r.drop:.1f} % of {depth.metric} lost"
            if depth.metric == "error":
                lost = f"output error {100 * r.drop:.1f} %"
            yield (
                f"round {number}{k}: {len(r.blocks)} blocks out, {lost} on {depth.judges} samples: "
                f"{verdict}"
            )
