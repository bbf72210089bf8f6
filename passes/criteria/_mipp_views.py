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
from onnxprune.core.declared import Linear
from onnxprune.core.stats import Contributions, Moments, Norm, Summaries

Kept = Mapping[int, NDArray[np.bool_]]  # number of a group -> which of its nodes stay


@dataclasses.dataclass(frozen=True)
class Seen:
    """What is seen of one group.

    Attributes:
        nodes: float64, shape (n, U).
        targets: float64, shape (n, q).
        samples: int64, shape (n,): the sample that each row is of.
        weight: of the targets' variance: what losses of different groups are compared by.
    """

    nodes: Floats
    targets: Floats
    samples: Ints
    weight: float = 1.0


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

    Rows of all readers stand below each other, each reader's in units of the spread of what its
    outputs flow into: themselves, or the sum that they are added to. The targets weigh as much as
    their variance in these units: a branch that hardly moves its residual stream counts little.
    """

    analysis: Analysis
    contributions: Mapping[int, Contributions]
    moments: Mapping[tuple[str, int], Moments]

    def seen(self, number: int, kept: Kept) -> Seen:
        """Return what is seen of a group, given which nodes stay in groups that come after it."""
        group, writers = self.analysis.groups[number], _writers(self.analysis)
        parts = [(np.empty((0, len(group))), np.empty((0, 1)), np.empty(0, np.int64))]
        weight = 0.0
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
            spread = self._spread(reader.linear, outputs, found.outputs[stays])
            nodes = added[:, reader.index].sum(axis=2)
            parts.append((nodes / spread, outputs / spread, np.nonzero(stays)[0]))
            weight += float(outputs.var()) / spread**2
        nodes, targets, samples = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Seen(nodes, targets, samples, weight)

    def _spread(self, linear: Linear, outputs: Floats, channels: Ints) -> float:
        """Return the standard deviation of what these outputs of an operator flow into."""
        stream = self.moments.get((self.analysis.sums.get(linear.y, ""), linear.y_axis))
        known = None if stream is None else float(stream.variance[channels].mean())
        return max(float(outputs.std()), known**0.5 if known else 0.0) or 1.0


@dataclasses.dataclass(frozen=True)
class Either:
    """Single values as they are; of maps, whose norm has no sign and no position, what they add."""

    values: Summarised
    maps: Sampled

    def seen(self, number: int, kept: Kept) -> Seen:
        """Return what is seen of a group, given which nodes stay in groups that come after it."""
        single = self.values.summaries.single
        alone = all(
            (reader.linear.x, reader.linear.x_axis) in single and reader.index.shape[1] == 1
            for reader in self.maps.analysis.groups[number].readers
        )
        return (self.values if alone else self.maps).seen(number, kept)


def _writers(analysis: Analysis) -> dict[str, dict[int, Ints]]:
    """Return per weight the groups whose units it writes, and the positions they own of it."""
    found: dict[str, dict[int, Ints]] = {}
    for number, group in enumerate(analysis.groups):
        for member in group.members:
            if member.role == "produces":
                found.setdefault(member.tensor, {})[number] = member.index
    return found
