"""What MIPP sees of a group: the values of its nodes, and those they shall tell about.

`Summarised`: one number per sample and node (the paper, 4.3 and E.2); a map is summed up by a norm.
`Sampled`: what each node adds to sampled outputs of its readers (as ThiNet), so that sign and
position count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxprune.core.analysis import Analysis, Group
from onnxprune.core.contracts import Floats, Ints
from onnxprune.core.stats import Contributions, Norm, Summaries

Kept = Mapping[int, NDArray[np.bool_]]  # number of a group -> which of its nodes stay


@dataclasses.dataclass(frozen=True)
class Seen:
    """What is seen of one group.

    Attributes:
        nodes: float64, shape (n, U).
        targets: float64, shape (n, q).
        samples: int64, shape (n,): the sample that each row is of.
    """

    nodes: Floats
    targets: Floats
    samples: Ints


class View(Protocol):
    """A way of looking at groups."""

    def seen(self, number: int, kept: Kept) -> Seen:
        """Return what is seen of a group, given which nodes stay in groups that come after it."""
        ...


@dataclasses.dataclass(frozen=True)
class Summarised:
    """One number per sample and node.

    Targets are, for each operator that reads the nodes: the kept nodes of the group that it writes,
    as they are read in turn, where that operator alone writes them; its own output, without channels
    that are gone, where it writes into a sum or out of the model.
    """

    analysis: Analysis
    summaries: Summaries
    how: Norm

    def seen(self, number: int, kept: Kept) -> Seen:
        """Return what is seen of a group, given which nodes stay in groups that come after it."""
        rows = len(next(iter(self.summaries.values.values()), ()))
        parts = [np.empty((rows, 0))]
        writers = _writers(self.analysis)
        for reader in self.analysis.groups[number].readers:
            linear = reader.linear
            written = [n for n in writers.get(linear.weight, {}) if n != number]
            place = (linear.y, linear.y_axis)
            if written and linear.y not in self.analysis.sums:
                for other in written:
                    values = self.nodes(self.analysis.groups[other])
                    parts.append(values[:, kept[other]] if other in kept else values)
            elif place in self.summaries.values:
                parts.append(self.summaries.collapsed(place, self.how))
        nodes = self.nodes(self.analysis.groups[number])
        return Seen(nodes, np.concatenate(parts, axis=1), np.arange(rows))

    def nodes(self, group: Group) -> Floats:
        """Return one number per sample and unit, where its readers read it: float64, shape (n, U)."""
        rows = len(next(iter(self.summaries.values.values()), ()))
        total = np.zeros((rows, len(group)))
        places = {(r.linear.x, r.linear.x_axis): r.index for r in group.readers}
        for place, index in places.items():
            if place in self.summaries.values:
                total += self.summaries.collapsed(place, self.how, index)
        return total


@dataclasses.dataclass(frozen=True)
class Sampled:
    """What each node adds to outputs that are still there; the target is the whole output.

    Rows of all readers stand below each other, each reader's in units of its outputs' spread.
    """

    analysis: Analysis
    contributions: Mapping[int, Contributions]

    def seen(self, number: int, kept: Kept) -> Seen:
        """Return what is seen of a group, given which nodes stay in groups that come after it."""
        group, writers = self.analysis.groups[number], _writers(self.analysis)
        parts = [Seen(np.empty((0, len(group))), np.empty((0, 1)), np.empty(0, np.int64))]
        for reader in group.readers:
            if reader.linear.node not in self.contributions:
                continue
            found = self.contributions[reader.linear.node]
            gone = [
                index[~kept[other]].ravel()
                for other, index in writers.get(reader.linear.weight, {}).items()
                if other in kept
            ]
            stays = ~np.isin(found.outputs, np.concatenate([np.empty(0, np.int64), *gone]))
            added = found.added[stays].astype(np.float64)
            outputs = added.sum(axis=1, keepdims=True)
            spread = float(outputs.std()) or 1.0
            nodes = added[:, reader.index].sum(axis=2)
            parts.append(Seen(nodes / spread, outputs / spread, np.nonzero(stays)[0]))
        nodes, targets, samples = zip(*map(dataclasses.astuple, parts), strict=True)
        return Seen(np.concatenate(nodes), np.concatenate(targets), np.concatenate(samples))


def _writers(analysis: Analysis) -> dict[str, dict[int, Ints]]:
    """Return per weight the groups whose units it writes, and the positions they own of it."""
    found: dict[str, dict[int, Ints]] = {}
    for number, group in enumerate(analysis.groups):
        for member in group.members:
            if member.role == "produces":
                found.setdefault(member.tensor, {})[number] = member.index
    return found
