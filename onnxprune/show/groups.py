"""A group of units, as people look at it: what it is, where it lies, what hangs on it."""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..core.analysis import Analysis, Group, Role
from ..core.cost import CostModel
from ..core.errors import OnnxPruneError
from ..plan import to_ranges
from .operators import OperatorView, Owned

Ints = NDArray[np.int64]
Ranges = tuple[tuple[int, int], ...]
Kind = Literal["inner", "stream", "grid", "input", "output", "vocabulary"]


@dataclasses.dataclass(frozen=True)
class PlaceView:
    """A weight axis that a group owns positions of.

    Attributes:
        tensor: the weight.
        axis: which of its axes.
        role: "produces", "consumes" or "carries" (see `Member`).
        length: of the axis.
        each: positions per unit.
        first, last: positions of the first and of the last unit, as ranges [start, stop).
    """

    tensor: str
    axis: int
    role: Role
    length: int
    each: int
    first: Ranges
    last: Ranges


@dataclasses.dataclass(frozen=True)
class GroupView:
    """A group of units.

    Attributes:
        name: the first weight that writes the units.
        module: the PyTorch module of the first operator that writes them, where the exporter noted it.
        kind: "inner": one operator writes them; "stream": several do (a sum, shared weights);
            "grid": one of the factors of an axis (heads and their dimensions, groups of a
            convolution and the channels in them); or the part of the interface that was unlocked.
        exact: removal equals silencing; else statistics change with the number of units.
        units: how many there are.
        width: channels on the first weight's axis.
        writers, readers: operators that write and read them.
        macs, params: multiply-accumulates of one run, and parameters, that go if the whole group does.
        unit_macs, unit_params: the same for one unit, from the whole model.
        places: every weight axis that goes with them.
    """

    name: str
    module: str | None
    kind: Kind
    exact: bool
    units: int
    width: int
    writers: int
    readers: int
    macs: float
    params: float
    unit_macs: float
    unit_params: float
    places: tuple[PlaceView, ...]

    @property
    def count(self) -> str:
        """Write units, and the channels that each is where it is several."""
        times, rest = divmod(self.width, self.units)
        if rest:
            return f"{self.units} of {self.width}"
        return str(self.units) if times == 1 else f"{self.units} x {times}"

    @property
    def source(self) -> str:
        """The module, where the name does not tell it already; else nothing."""
        known = self.module is None or self.module in self.name
        return "" if known else f"{self.module}"


def view_groups(
    analysis: Analysis, cost: CostModel, owned: Owned, operators: Sequence[OperatorView]
) -> tuple[GroupView, ...]:
    """Describe every group; MACs are those of a run at the shapes of `cost`."""
    writers = Counter(number for operator in operators for number in operator.writes)
    modules = {n: o.module for o in reversed(operators) for n in o.writes}
    readers = Counter(number for operator in operators for number in operator.reads)
    grids, macs, params = _grids(analysis), _Savings(cost, "macs"), _Savings(cost, "params")
    faces: dict[int, Kind] = {
        analysis.space.root(axis): face.kind
        for face in analysis.faces
        if (axis := analysis.space.find(face.tensor, face.axis)) is not None
    }
    views = []
    for number, group in enumerate(analysis.groups):
        face = [faces[root] for root in owned.roots[number] & faces.keys()]
        several: Kind = "stream" if writers[number] > 1 else "inner"
        kind: Kind = "grid" if number in grids else several
        cells = owned.cells[number]
        whole, one = np.unique(cells), cells[0]
        views.append(
            GroupView(
                name=_shown(analysis, group.name),
                module=modules.get(number),
                kind=face[0] if face else kind,
                exact=group.exact,
                units=len(group),
                width=group.width,
                writers=writers[number],
                readers=readers[number],
                macs=macs.of(whole),
                params=params.of(whole),
                unit_macs=macs.of(one),
                unit_params=params.of(one),
                places=_places(analysis, group),
            )
        )
    return tuple(views)


def _grids(analysis: Analysis) -> set[int]:
    """Return the groups that cover a weight axis together with another group."""
    covering: dict[tuple[str, int], set[int]] = {}
    for number, group in enumerate(analysis.groups):
        for m in group.members:
            if m.index.size == analysis.graph.weights[m.tensor].shape[m.axis]:
                covering.setdefault((m.tensor, m.axis), set()).add(number)
    return {number for numbers in covering.values() if len(numbers) > 1 for number in numbers}


class _Savings:
    """How much less of a figure there is without some positions; looks only at what they touch."""

    def __init__(self, cost: CostModel, figure: Literal["macs", "params"]) -> None:
        self.cost, self.full = cost, cost.lengths()
        products = cost.products(figure)
        self.rows, self.constants = products.rows, products.constants
        depth = self.rows.shape[1]
        order = np.argsort(self.rows, axis=None, kind="stable")
        self._terms = order // max(depth, 1)  # of the figure's sum, by the length that they hold
        self._starts = np.searchsorted(self.rows.ravel()[order], np.arange(len(self.full) + 1))

    def of(self, positions: Ints) -> float:
        """Return the difference; `positions` are distinct."""
        touched, lost = np.unique(self.cost.row_of[positions], return_counts=True)
        runs = [self._terms[self._starts[r] : self._starts[r + 1]] for r in touched]
        terms = np.unique(np.concatenate(runs))
        left = self.full.copy()
        left[touched] -= lost
        rows = self.rows[terms]
        before, after = (lengths[rows].prod(axis=1) for lengths in (self.full, left))
        return float(self.constants[terms] @ (before - after))


def _shown(analysis: Analysis, name: str) -> str:
    return analysis.graph.origin.get(name, name)


def _places(analysis: Analysis, group: Group) -> tuple[PlaceView, ...]:
    return tuple(
        PlaceView(
            tensor=_shown(analysis, m.tensor),
            axis=m.axis,
            role=m.role,
            length=analysis.graph.weights[m.tensor].shape[m.axis],
            each=m.index.shape[1],
            first=to_ranges(np.sort(m.index[0])),
            last=to_ranges(np.sort(m.index[-1])),
        )
        for m in group.members
    )


def named(groups: Sequence[GroupView], pattern: str) -> list[int]:
    """Return the numbers of the groups of a name or pattern, else of those that own such a weight.

    Raises:
        OnnxPruneError: if there are none, with the nearest name.
    """
    for names in ([{g.name} for g in groups], [{p.tensor for p in g.places} for g in groups]):
        found = [
            number
            for number, own in enumerate(names)
            if any(name == pattern or fnmatchcase(name, pattern) for name in own)
        ]
        if found:
            return found
    known = sorted({name for g in groups for name in (g.name, *(p.tensor for p in g.places))})
    near = difflib.get_close_matches(pattern, known, n=1, cutoff=0.0)
    hint = f"; the nearest name is '{near[0]}'" if near else ""
    raise OnnxPruneError(f"--group '{pattern}' names no group and no weight of one{hint}")
