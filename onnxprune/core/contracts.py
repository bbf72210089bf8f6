"""The contracts of what registers itself: criteria, repairs, data sources; and what they are given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .alignment import Point
from .analysis import Analysis, Group, Mask
from .declared import Quantised
from .errors import OnnxPruneError
from .graph import Array, Graph
from .input_shapes import Shape
from .patches import Keys
from .quantised import dequantised, quantised_weights
from .registry import Registry
from .samples import Batch as Batch
from .samples import Progress as Progress
from .samples import Samples as Samples
from .samples import concatenate as concatenate
from .samples import silent as silent
from .stats import Statistics
from .stream import Probes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Memo = Callable[[str, Callable[[], dict[str, Array]]], dict[str, Array]]


def computed(_: str, make: Callable[[], dict[str, Array]]) -> dict[str, Array]:
    """Remember nothing."""
    return make()


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What a criterion may look at.

    Attributes:
        analysis: the graph in normal form, with its groups.
        statistics: of the calibration run; None when no samples were given.
        seed: for criteria that draw.
        labels: key of the data's labels; None when not named.
        quality: gives the share of samples that the model without some units (global numbers) still
            answers as before, or rightly where there are labels; None where a budget decides.
        damage: gives the squared relative error of the outputs without some units, what reads them
            refitted, or None where there is nothing to compare; None without samples.
        memo: gives arrays by name, computed by the function or remembered from an interrupted run.
    """

    analysis: Analysis
    statistics: Statistics | None
    seed: int = 0
    labels: str | None = None
    quality: Callable[[Ints], float] | None = None
    damage: Callable[[Ints], float | None] | None = None
    memo: Memo = computed

    def weight(self, tensor: str) -> Array:
        """Return a weight as float64; integers as the values they stand for."""
        if tensor in self._meanings:
            return dequantised(self.analysis.graph, *self._meanings[tensor])
        return np.asarray(self.analysis.graph.weights[tensor].array).astype(np.float64)

    def pieces(self, tensor: str) -> Iterator[Array]:
        """Yield what `weight` returns as slices along the first axis; of large weights a bit at a time.

        Real numbers come as they are stored; all else as float64.
        """
        if tensor in self._meanings:
            yield self.weight(tensor)
            return
        for piece in self.analysis.graph.weights[tensor].pieces():
            yield piece if piece.dtype.kind == "f" else np.asarray(piece).astype(np.float64)

    @cached_property
    def _meanings(self) -> Mapping[str, tuple[Quantised, list[str]]]:
        return quantised_weights(self.analysis.graph, self.analysis.records)

    def required(self) -> Statistics:
        """Return the statistics.

        Raises:
            OnnxPruneError: if no samples were given.
        """
        if self.statistics is None:
            raise OnnxPruneError(
                "this criterion needs sample inputs: give --data, or choose l1, l2, fpgm or random"
            )
        return self.statistics


@dataclasses.dataclass(frozen=True)
class Ranking:
    """What a criterion says of one group.

    Attributes:
        scores: one finite number per unit, float64, shape (U,); higher means keep.
        keep: the units that the criterion would keep by itself, bool, shape (U,), at least one;
            None when it only ranks and needs a budget.
        curves: what it looked at on the way, for the report: name -> float64, one value per step.
        notes: what the user should know about this group.
    """

    scores: Floats
    keep: NDArray[np.bool_] | None = None
    curves: Mapping[str, Floats] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Criterion(Protocol):
    """Ranks the units of every group; registered in `CRITERIA` under its file name.

    Its settings are the fields of its dataclass, each with a default.

    Attributes:
        needs: which statistics it reads: names in `COLLECTORS`.
        comparable: whether raw scores of different groups may be compared (a loss rise may, a weight
            norm may not and is normalised per group before global ranking).
        zero_is_least: whether a unit whose weights and activations are all zero must rank lowest.
        chooses: whether its rankings say what to keep, so that no budget is needed.
    """

    comparable: bool
    zero_is_least: bool
    chooses: bool

    @property
    def needs(self) -> frozenset[str]:
        """Which statistics it reads, with the settings it has."""
        ...

    def rank(self, evidence: Evidence, progress: Progress = silent) -> list[Ranking]:
        """Return one ranking per group, in the order of the analysis' groups."""
        ...


class PerGroup:
    """A criterion that scores each group by itself."""

    chooses = False

    def score(self, group: Group, evidence: Evidence) -> Floats:
        """Return one finite score per unit, float64, shape (U,); higher means keep."""
        raise NotImplementedError

    def rank(self, evidence: Evidence, progress: Progress = silent) -> list[Ranking]:
        """Return one ranking per group, in the order of the analysis' groups."""
        groups, rankings = evidence.analysis.groups, []
        for number, group in enumerate(groups):
            rankings.append(Ranking(self.score(group, evidence)))
            progress("score", number + 1, len(groups))
        return rankings


class Source(Protocol):
    """Opens sample inputs of one form; registered in `SOURCES`.

    Attributes:
        form: what it reads, for messages: "a folder of images".
    """

    form: str

    def accepts(self, data: object) -> bool:
        """Tell whether this source reads `data`: the text of `--data`, or a Python object."""
        ...

    def open(self, data: object, request: SourceRequest) -> Samples:
        """Open it.

        Raises:
            DataError: in one line: what, where, expected, found, what to do.
        """
        ...


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """One graph input.

    Attributes:
        name: of the tensor.
        shape: None where symbolic; None as a whole where the model does not tell the rank.
        dtype: of its elements.
        below: integers must be smaller, where the model looks them up in a table; None: no table.
    """

    name: str
    shape: tuple[int | None, ...] | None
    dtype: np.dtype[np.generic]
    below: int | None = None


@dataclasses.dataclass(frozen=True)
class SourceRequest:
    """What a source must deliver.

    Attributes:
        inputs: of the model.
        typical: gives the shape of each input in a run that suits the model, symbolic dimensions
            filled in; takes a while on large models, so it is asked only when needed.
        limit: at most so many samples, then drawn from all over the data; None: all, in order.
        seed: of that draw.
        preprocess: how images become inputs; None: guessed from the model's input.
    """

    inputs: tuple[InputSpec, ...]
    typical: Callable[[], Mapping[str, Shape]]
    limit: int | None = None
    seed: int = 0
    preprocess: Mapping[str, object] | None = None


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How a streaming run gathers.

    Attributes:
        shapes: shape of every tensor for a run over `count` samples, where known.
        count: number of samples those shapes are for.
        rows: output positions read per sample and operator, for second moments.
        widest: operators with more columns than this are left out of second moments.
        kept: samples whose activations are kept whole, for maps.
        positions: positions kept per sample and channel, for maps.
        points: whose activations are compared with each other.
        pairs: of those, by number: between which the way is measured.
        labels: key of the data's labels, for losses; None: there are none.
    """

    shapes: Mapping[str, Shape]
    count: int
    rows: int
    widest: int
    kept: int = 256
    positions: int = 1024
    points: tuple[Point, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()
    labels: str | None = None


class Fold(Protocol):
    """One statistic in the making.

    Attributes:
        probes: what it reads from each run.
    """

    probes: Probes

    def add(self, values: Mapping[str, Array], keys: Keys) -> None:
        """Fold in one run: the probed tensors by name, and the keys of its samples, shape (N,)."""
        ...

    def finish(self, statistics: Statistics) -> Statistics:
        """Return `statistics` with what was gathered."""
        ...


class Collector(Protocol):
    """Gathers one kind of statistic; registered in `COLLECTORS` under the name `needs` speaks of."""

    def start(self, analysis: Analysis, settings: Calibration) -> Fold:
        """Begin with nothing seen."""
        ...


class Repair(Protocol):
    """Refits what is left after removal; registered in `REPAIRS`.

    Attributes:
        needs: which statistics it reads.
        needs_samples: whether it runs the models over samples itself.
    """

    needs: frozenset[str]
    needs_samples: bool

    def apply(self, task: RepairTask) -> Graph:
        """Return the pruned graph with repaired weights; structure unchanged but for added biases."""
        ...


@dataclasses.dataclass(frozen=True)
class RepairTask:
    """What a repair works on.

    Attributes:
        mask: what was removed, with the analysis it was decided on.
        pruned: the graph without it.
        evidence: what the criterion looked at.
        samples: of the inputs.
        ridge: damping, relative to the mean variance of what an operator reads; None: the repair's
            own choice.
        rows: sampled output positions per sample.
        progress: called as work goes on.
        original: in normal form, where whole blocks were left out before that analysis was made;
            None: its graph is the original. Repairs that run the model themselves fit to it.
    """

    mask: Mask
    pruned: Graph
    evidence: Evidence
    samples: Samples | None
    ridge: float | None = None
    rows: int = 32
    progress: Progress = silent
    original: Graph | None = None


# A surgery returns the graph of a mask's analysis without what the mask removes, proving nothing yet.
Surgery = Callable[[Mask], Graph]

CRITERIA: Registry[Criterion] = Registry("criterion")
SURGERIES: Registry[Surgery] = Registry("surgery")
REPAIRS: Registry[Repair] = Registry("repair")
SOURCES: Registry[Source] = Registry("data source")
COLLECTORS: Registry[Collector] = Registry("statistic")
