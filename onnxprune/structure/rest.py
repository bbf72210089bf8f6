"""What cannot be pruned, gathered by reason."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable

from ..core.analysis import Analysis

_NAMES = 3  # in one line


@dataclasses.dataclass(frozen=True)
class FrozenView:
    """Places that cannot be pruned for one reason.

    Attributes:
        reason: why.
        count: how many.
        names: of them: weights, or nodes.
    """

    reason: str
    count: int
    names: tuple[str, ...]

    def told(self) -> str:
        """Write the first names."""
        more = ", ..." if self.count > _NAMES else ""
        return f"{', '.join(self.names[:_NAMES])}{more}"


def frozen_weights(analysis: Analysis) -> tuple[FrozenView, ...]:
    """Return weights whose outputs stay, by reason, the most frequent first."""
    origin = analysis.graph.origin
    return _by_reason((f.reason, origin.get(f.tensor, f.tensor)) for f in analysis.frozen)


def opaque_nodes(analysis: Analysis) -> tuple[FrozenView, ...]:
    """Return nodes without a rule, all of whose operands stay, by reason, the most frequent first."""
    return _by_reason(_opaque(analysis))


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


def _by_reason(pairs: Iterable[tuple[str, str]]) -> tuple[FrozenView, ...]:
    found: dict[str, list[str]] = defaultdict(list)
    for reason, name in pairs:
        found[reason].append(name)
    views = [FrozenView(reason, len(names), tuple(names)) for reason, names in found.items()]
    return tuple(sorted(views, key=lambda v: (-v.count, v.reason)))
