"""The points where blocks begin and end, and which blocks compete to be left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..core.alignment import Point
from ..core.analysis import Analysis
from ..core.blocks import Block
from ..core.depth import Level
from ..core.padding import padding_masks
from .flow import Flow


@dataclasses.dataclass(frozen=True)
class Streams:
    """Points of a model, and the blocks between them.

    Attributes:
        points: in topological order.
        ends: of each block, the numbers of the points where it begins and ends.
    """

    points: tuple[Point, ...]
    ends: tuple[tuple[int, int], ...]


def competing(blocks: Sequence[Block], level: Level) -> tuple[Block, ...]:
    """Return blocks of a level that do not overlap, in topological order.

    Args:
        blocks: all of a model.
        level: "block": the innermost regions; the normalisation of a post-norm network goes with
            its sum, since without the sum it would follow another. "layer": whole layers where
            blocks repeat, and the innermost of what lies in none.
    """
    spans = [b for b in blocks if not b.parts]
    normal = [b for b in spans if b.kind == "post-norm"]
    bare = {b.y for b in spans for p in normal if b.x == p.x and set(b.nodes) < set(p.nodes)}
    chosen = [b for b in blocks if b.parts] if level == "layer" else []
    covered = {node for layer in chosen for node in layer.nodes}
    for block in sorted(spans, key=lambda b: len(b.nodes)):
        if block.y not in bare and covered.isdisjoint(block.nodes):
            chosen.append(block)
            covered.update(block.nodes)
    return tuple(sorted(chosen, key=lambda b: b.nodes[-1]))


def streams(analysis: Analysis, blocks: Sequence[Block]) -> Streams:
    """Return the points where blocks begin and end.

    A block's end is seen behind what only follows it (the activation after a sum), where the next
    block begins. Tensors (samples, tokens, channels) have tokens as rows, and are comparable where
    blocks lead from one to the other: a decoder has tokens of its own.

    Args:
        analysis: of a model.
        blocks: of it.
    """
    flow = Flow(analysis)
    spans = [(_settled(analysis, flow, b.x), _settled(analysis, flow, b.y)) for b in blocks]
    order = sorted({n for span in spans for n in span}, key=lambda n: flow.maker.get(n, -1))
    number = {name: i for i, name in enumerate(order)}
    ends = tuple((number[x], number[y]) for x, y in spans)
    conv = {
        n for span, b in zip(spans, blocks, strict=True) if _convolves(analysis, b) for n in span
    }
    tokens = [len(analysis.shapes.a[name]) == 3 and name not in conv for name in order]
    first = list(range(len(order)))  # the first point of each chain
    for start, end in sorted(ends):
        first[end] = min(first[start], first[end])
    masks = padding_masks(analysis.graph)
    points = [
        Point(name, True, masks.get(order[first[i]]), 1 + first[i]) if tokens[i] else Point(name)
        for i, name in enumerate(order)
    ]
    return Streams(tuple(points), ends)


def _settled(analysis: Analysis, flow: Flow, name: str) -> str:
    """Follow a tensor through what only reads it and keeps its shape: an activation, a copy."""
    shapes = analysis.shapes
    while name not in flow.bound and len(at := flow.readers.get(name, [])) == 1:
        record = analysis.records[at[0]]
        made = flow.makes[at[0]]
        simple = not (record.macs or record.renorms or record.adds) and len(made) == 1
        if not simple or flow.dynamic.intersection(flow.reads[at[0]]) != {name}:
            break
        if (
            not shapes.known(made[0])
            or shapes.a[made[0]] != shapes.a[name]
            or shapes.b[made[0]] != shapes.b[name]
        ):
            break
        name = made[0]
    return name


def _convolves(analysis: Analysis, block: Block) -> bool:
    """Tell whether a block convolves over one axis: then its tensors are (samples, channels, length)."""
    linears = (analysis.records[i].linear for i in block.nodes)
    return any(linear is not None and len(linear.kernel) == 1 for linear in linears)
