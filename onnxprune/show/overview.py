"""What can be removed from a model, what cannot and why, before any data is needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..core.analysis import Analysis
from ..core.cost import CostModel
from ..core.graph import Array
from ..selection.budget import Options
from ..selection.select import Figures, least
from ..structure.blocks import find_blocks
from ..structure.rest import FrozenView, frozen_weights, opaque_nodes
from .blocks import BlocksView, view_blocks
from .groups import GroupView, named, view_groups
from .operators import OperatorView, Owned, view_operators

_TOLD = 4  # reasons in one line


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
        operators: who feeds whom, in the order in which they run.
        blocks: what can be left out whole; None if it was not asked for.
        chosen: numbers of the groups that were asked for by name.
    """

    model: Path
    inputs: dict[str, tuple[int, ...]]
    total: Figures
    least: Figures
    groups: tuple[GroupView, ...]
    frozen: tuple[FrozenView, ...]
    opaque: tuple[FrozenView, ...]
    operators: tuple[OperatorView, ...]
    blocks: BlocksView | None = None
    chosen: tuple[int, ...] = ()

    def choose(self, patterns: Iterable[str]) -> Overview:
        """Return the same with groups chosen by name, or by weights in them.

        Raises:
            OnnxPruneError: if a pattern names none.
        """
        numbers = {number for pattern in patterns for number in named(self.groups, pattern)}
        return dataclasses.replace(self, chosen=tuple(sorted(numbers)))


def overview(
    model: Path,
    analysis: Analysis,
    cost: CostModel,
    feeds: dict[str, Array],
    options: Options,
    *,
    blocks: bool = False,
) -> Overview:
    """Describe an analysed model.

    Args:
        model: the file it came from.
        analysis: its analysis.
        cost: at the shapes of `feeds`.
        feeds: inputs of one run.
        options: whose rounding, floor and protected groups bound what is reachable.
        blocks: whether to look for whole blocks too.
    """
    full, owned = cost.lengths(), Owned.of(cost)
    found = find_blocks(analysis, cost) if blocks else []
    operators = view_operators(analysis, cost, owned, found)
    return Overview(
        model=model,
        inputs={name: np.shape(array) for name, array in feeds.items()},
        total=Figures(
            cost.macs(full), cost.params(full), cost.size(full), sum(map(len, analysis.groups))
        ),
        least=least(cost, options),
        groups=view_groups(analysis, cost, owned, operators),
        frozen=frozen_weights(analysis),
        opaque=opaque_nodes(analysis),
        operators=operators,
        blocks=view_blocks(found) if blocks else None,
    )


def nothing_prunable(analysis: Analysis) -> str:
    """Say in one line why no group was found."""
    nodes, weights = opaque_nodes(analysis), frozen_weights(analysis)
    reasons = [_counted(v, "node") for v in nodes] + [_counted(v, "weight") for v in weights]
    if not reasons:
        return "nothing can be removed: the model has no convolution or matrix product with weights"
    rest = len(reasons) - _TOLD
    more = f"; and {rest} more, see `onnxprune inspect`" if rest > 0 else ""
    return f"nothing can be removed: {'; '.join(reasons[:_TOLD])}{more}"


def _counted(view: FrozenView, noun: str) -> str:
    """Write "no rule for op If (2 nodes: If_1, If_2)"."""
    nouns = noun if view.count == 1 else f"{noun}s"
    return f"{view.reason} ({view.count} {nouns}: {view.told()})"
