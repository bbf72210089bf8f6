"""A removable block: a region of the graph that only adds to a tensor, so that it can be left out."""

from __future__ import annotations

import dataclasses
from typing import Literal

Kind = Literal["residual", "post-norm"]


@dataclasses.dataclass(frozen=True)
class Block:
    """A region from `x` to `y` that can be bypassed: whoever read y reads x instead.

    Attributes:
        name: the module it came from, where the exporter noted it, else `y`; no two are the same.
        kind: "residual", y = x + b(x); "post-norm", y = norm(x + b(x)).
        x: the tensor that is added to.
        y: the only tensor of the region that is read outside it; same shape and type as x.
        nodes: indices of the nodes that go when it is bypassed, ascending; the last makes y.
        added: (node, slot) of every operand that is added to x on the way to y.
        sides: tensors besides x that it reads from outside (masks, tables, encoder states).
        weights: weights that nobody else reads.
        params: how many parameters they hold.
        macs: multiply-accumulates of one sample that go; None if no cost model was given.
        parts: names of the consecutive blocks that it consists of; none if it is not such a chain.
        parent: the smallest block that it lies in.
        level: how many it lies in.
    """

    name: str
    kind: Kind
    x: str
    y: str
    nodes: tuple[int, ...]
    added: tuple[tuple[int, int], ...]
    sides: tuple[str, ...]
    weights: tuple[str, ...]
    params: float
    macs: float | None = None
    parts: tuple[str, ...] = ()
    parent: str | None = None
    level: int = 0
