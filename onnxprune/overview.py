"""What can be removed from a model, what cannot and why, before any data is needed."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .budget import Options
from .core.analysis import Analysis, CostModel, Group
from .core.graph import Array
from .select import Figures, least

_TOLD = 4  # reasons in one line


@dataclasses.dataclass(frozen=True)
class GroupView:
    """A group of units, as `inspect` shows it.

    Attributes:
        name: the first weight that writes the units.
        kind: "exact", or "renormalising" when statistics over the units change with their number.
        units: how many there are.
        width: channels on the first weight's axis.
        members: weight axes they own positions of.
        readers: linear operators that read them.
        macs: multiply-accumulates of one run that go if the whole group goes.
        params: parameters that go with it.
    """

    name: str
    kind: str
    units: int
    width: int
    members: int
    readers: int
    macs: float
    params: float


@dataclasses.dataclass(frozen=True)
class FrozenView:
    """Places that cannot be pruned for one reason.

    Attributes:
        reason: why.
        count: how many.
        examples: the first of them: weights, or nodes.
    """

    reason: str
    count: int
    examples: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Overview:
    """The result of `inspect`.

    Attributes:
        model: the file.
        inputs: shape of every input of the run that costs are counted at.
        total: figures of the whole model.
        least: least figures that any budget reaches under the default options.
        groups: what can be removed.
        frozen: weights whose outputs stay, by reason.
        opaque: nodes without a rule, by reason; all they touch stays.
    """

    model: Path
    inputs: dict[str, tuple[int, ...]]
    total: Figures
    least: Figures
    groups: tuple[GroupView, ...]
    frozen: tuple[FrozenView, ...]
    opaque: tuple[FrozenView, ...]


def overview(
    model: Path, analysis: Analysis, cost: CostModel, feeds: dict[str, Array], options: Options
) -> Overview:
    """Describe an analysed model.

    Args:
        model: the file it came from.
        analysis: its analysis.
        cost: at the shapes of `feeds`.
        feeds: inputs of one run.
        options: whose rounding, floor and protected groups bound what is reachable.
    """
    full = cost.lengths()
    return Overview(
        model=model,
        inputs={name: np.shape(array) for name, array in feeds.items()},
        total=Figures(
            cost.macs(full), cost.params(full), cost.size(full), sum(map(len, analysis.groups))
        ),
        least=least(cost, options),
        groups=tuple(_view(analysis, cost, group) for group in analysis.groups),
        frozen=by_reason((f.reason, f.tensor) for f in analysis.frozen),
        opaque=by_reason(_opaque(analysis)),
    )


def _view(analysis: Analysis, cost: CostModel, group: Group) -> GroupView:
    full, without = cost.lengths(), cost.lengths(analysis.mask(group.units).removed)
    return GroupView(
        name=analysis.graph.origin.get(group.name, group.name),
        kind="exact" if group.exact else "renormalising",
        units=len(group),
        width=group.width,
        members=len(group.members),
        readers=len(group.readers),
        macs=cost.macs(full) - cost.macs(without),
        params=cost.params(full) - cost.params(without),
    )


def _opaque(analysis: Analysis) -> Iterable[tuple[str, str]]:
    for record in analysis.records:
        if record.opaque is not None:
            node = analysis.graph.nodes[record.index]
            unknown = re.search(r"the shape of '.*' is unknown", record.opaque)
            reason = (
                "an operand of unknown shape, behind a node without a rule"
                if unknown
                else record.opaque
            )
            yield reason, node.name or next(iter(node.output), "")


def by_reason(pairs: Iterable[tuple[str, str]]) -> tuple[FrozenView, ...]:
    """Gather (reason, name) pairs by reason, the most frequent first."""
    found: dict[str, list[str]] = defaultdict(list)
    for reason, name in pairs:
        found[reason].append(name)
    views = [FrozenView(reason, len(names), tuple(names[:3])) for reason, names in found.items()]
    return tuple(sorted(views, key=lambda v: (-v.count, v.reason)))


def nothing_prunable(analysis: Analysis) -> str:
    """Say in one line why no group was found."""
    nodes, weights = (
        by_reason(_opaque(analysis)),
        by_reason((f.reason, f.tensor) for f in analysis.frozen),
    )
    reasons = [_counted(v, "node") for v in nodes] + [_counted(v, "weight") for v in weights]
    if not reasons:
        return "nothing can be removed: the model has no convolution or matrix product with weights"
    rest = len(reasons) - _TOLD
    more = f"; and {rest} more, see `onnxprune inspect`" if rest > 0 else ""
    return f"nothing can be removed: {'; '.join(reasons[:_TOLD])}{more}"


def _counted(view: FrozenView, noun: str) -> str:
    """Write "no rule for op If (2 nodes: If_1, If_2)"."""
    nouns = noun if view.count == 1 else f"{noun}s"
    more = ", ..." if view.count > len(view.examples) else ""
    return f"{view.reason} ({view.count} {nouns}: {', '.join(view.examples)}{more})"
