"""CMI: what a channel's map tells about the target given the others (Vu-Van et al. 2024, arXiv 2411.18578).

A greedy order by joint matrix-based Renyi information, per group, given the maps kept in groups cut
before; a cut where the conditional mutual information of what remains levels off. "robust" (the
default) and "paper" settings differ in kernels, the order of entropy and how curves are read.

Under a budget, what a channel is worth is the information lost as it goes, in nats: the slope of the
curve, made to fall. With kernels as wide as readers see (`_kernels`) these compare between groups.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from onnxprune.core.analysis import Group
from onnxprune.core.contracts import CRITERIA, Evidence, Floats, Progress, Ranking, silent
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.stats import Maps

from . import _cuts as cuts
from ._approximations import Method, estimator, refuse
from ._arrays import Arrays, placing
from ._kernels import About, Labels, Singles, Width, informative, log_kernels, maps_of, target_of
from ._layers import layer_order
from ._ordering import Ordering, ordered

Conditioning = Literal["compact", "full", "layer"]
_TIE = 1e-12  # nats
_HELD = 2**30  # bytes of kernels kept from the first visit of groups to the second
_SATURATED = 0.98  # of ln N: beyond, kernels tell all samples apart whatever the channels hold


@dataclasses.dataclass(frozen=True)
class _Layer:
    """One group, ordered and cut."""

    group: Group
    ordering: Ordering
    keep: int
    base: Floats  # log kernel of the kept maps, shape (T,)
    tells: NDArray[np.bool_]  # units whose maps differ between samples, shape (U,)
    known: float  # I(Y; B), in nats

    @property
    def gone(self) -> NDArray[np.int64]:
        """Global numbers of the units cut."""
        return self.group.units[self.ordering.order[self.keep :]]


@dataclasses.dataclass(frozen=True)
class Cmi:
    """Orders by conditional mutual information, and cuts by itself.

    Attributes:
        mode: "paper" reads widths, labels and curves as the paper's code does; "robust" as measured
            to work.
        alpha: order of the Renyi entropy; None: 2, which is fastest, and 1.01 as "paper".
        entropy: "exact", or approximated with its error shown: from the largest eigenvalues
            ("low-rank") or by random vectors ("stochastic"); not at 2 and 3, which need neither.
        eigenvalues, vectors: how many of them.
        width: of kernels; None: "readers", and "paper" as "paper".
        labels: their kernel (see `target_of`); None: "indicator", and "rbf" as "paper".
        conditioning: on the maps kept in the neighbouring group cut before ("compact", eq. 8), in all
            groups cut before ("full", eq. 6), or on none ("layer").
        direction: cut groups from first to last, or both ways from the one that alone loses most.
        cut: how the curve is cut.
        xmeans: what X-means clusters; None: "values", and "indices" as "paper".
        shortlist: candidates per step compared exactly, at most, best to first order; 0: all, the
            best of them proved by bounds (`_proven`) where there are any.
        target: what the maps shall tell about.
        tolerance: all cuts together may cost this share of answers; else the next larger candidate is
            taken.
        arrays: what the order is computed with: "numpy", "torch", "cuda", or what is there ("auto").
    """

    mode: cuts.Mode = "robust"
    alpha: float | None = None
    entropy: Method = "exact"
    eigenvalues: int = 32
    vectors: int = 32
    width: Width | None = None
    labels: Labels | None = None
    conditioning: Conditioning = "compact"
    direction: Literal["both", "forward"] = "both"
    cut: Literal["scree", "x-means", "permutation"] = "scree"
    xmeans: cuts.Over | None = None
    shortlist: int = 8
    target: About = "auto"
    tolerance: float = 0.01
    arrays: Arrays = "auto"

    needs = frozenset({"maps", "moments", "streams"})
    comparable = True
    zero_is_least = True
    chooses = True

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            OnnxPruneError: naming the setting.
        """
        for name, least in (("eigenvalues", 1), ("vectors", 3), ("shortlist", 0)):
            if (value := getattr(self, name)) < least:
                raise OnnxPruneError(f"cmi:{name}={value}: expected {least} or more")
        if not 0 < self.order < np.inf:
            raise OnnxPruneError(f"cmi:alpha={self.alpha}: expected a number above 0")
        refuse(self.entropy, self.order)

    @property
    def order(self) -> float:
        """The order of the entropy."""
        return (1.01 if self.mode == "paper" else 2.0) if self.alpha is None else self.alpha

    def rank(self, evidence: Evidence, progress: Progress = silent) -> list[Ranking]:
        """Return one ranking per group; scores are the information lost with each unit, in nats."""
        return [_ranking(layer) for layer in _Run(self, evidence, progress).layers()]


class _Run:
    """One ordering of all groups."""

    def __init__(self, settings: Cmi, evidence: Evidence, progress: Progress) -> None:
        self.settings, self.evidence, self.progress = settings, evidence, progress
        self.groups = evidence.analysis.groups
        self.sequence = layer_order(evidence.analysis)
        self.maps: Maps = maps_of(evidence)
        literal, self.alpha = settings.mode == "paper", settings.order
        self.width: Width = settings.width or ("paper" if literal else "readers")
        self.xmeans: cuts.Over = settings.xmeans or ("indices" if literal else "values")
        labels: Labels = settings.labels or ("rbf" if literal else "indicator")
        target = target_of(evidence, self.maps, settings.target, self.width, labels)
        estimate = estimator(settings.entropy, settings.eigenvalues, settings.vectors)
        self.target = dataclasses.replace(target, estimate=estimate)
        self.place = placing(settings.arrays, "cmi:arrays")
        self.held: dict[int, Singles] = {}
        self.before = evidence.quality(_NONE) if evidence.quality else 1.0
        self.done = 0

    def layers(self) -> list[_Layer]:
        """Return the groups, ordered and cut, in the order of the analysis."""
        forward, backward = self.sequence, list[int]()
        if self._twice:
            start = self._start()
            forward, backward = self.sequence[start:], self.sequence[:start][::-1]
        found: dict[int, _Layer] = {}
        for way in (forward, backward):
            before = [found[forward[0]]] if way is backward and found else []
            for number in way:
                given = {"full": before, "compact": before[-1:], "layer": []}[
                    self.settings.conditioning
                ]
                found[number] = self._layer(number, given, list(found.values()))
                before.append(found[number])
        return [found[number] for number in range(len(self.groups))]

    def _start(self) -> int:
        """Return the place in the sequence of the group that alone, acceptably cut, loses most."""
        alone = [self._layer(number, [], []) for number in self.sequence]
        shares = [
            len(layer.gone) / len(layer.group) if self._accepts(layer.gone) else 0.0
            for layer in alone
        ]
        return int(np.argmax(shares))

    def _layer(self, number: int, given: list[_Layer], cut: list[_Layer]) -> _Layer:
        """Order and cut one group, given the maps kept in others, with others cut already."""
        group = self.groups[number]
        logs = self._kernels(number)
        base = self._base(given)
        name = f"{number}-{'-'.join(str(len(layer.gone)) for layer in given)}-{len(cut)}"
        held = self.evidence.memo(f"cmi-{name}", lambda: _arrays(self._order(logs, base)))
        ordering = Ordering(held["order"], held["joint"], held["filled"], held["error"])
        candidates = self._candidates(logs, ordering, base)
        gone = np.concatenate([_NONE, *(layer.gone for layer in cut)])
        keep = self._chosen(group, ordering, candidates, gone)
        self.done += 1
        self.progress("cmi", self.done, self._total)
        kept = logs[ordering.order[:keep]].sum(axis=0, dtype=np.float64)
        known = 0.0 if base is None else float(self.target.information(base, self.alpha)[0])
        return _Layer(group, ordering, keep, kept, informative(logs), known)

    @property
    def _twice(self) -> bool:
        """Whether groups are ordered alone first, to find the start."""
        return self.settings.direction == "both" and self.settings.conditioning != "layer"

    @property
    def _total(self) -> int:
        return len(self.groups) * (2 if self._twice else 1)

    def _kernels(self, number: int) -> Singles:
        """Return a group's kernels; held for a second visit while all held are few."""
        if number in self.held:
            return self.held.pop(number)
        logs = log_kernels(self.groups[number], self.evidence, self.maps, self.width)
        first = self._twice and self.done < len(self.groups)
        if first and logs.nbytes + sum(held.nbytes for held in self.held.values()) <= _HELD:
            self.held[number] = logs
        return logs

    def _base(self, given: list[_Layer]) -> Floats | None:
        """Return the log kernel of the conditioning set; robust: as wide as that of one group."""
        if not given:
            return None
        total: Floats = np.sum([layer.base for layer in given], axis=0)
        return total / len(given) if self.settings.mode == "robust" else total

    def _order(self, logs: Singles, base: Floats | None) -> Ordering:
        found = ordered(
            self.place(logs),
            dataclasses.replace(self.target, log=self.place(self.target.log)),
            None if base is None else self.place(base),
            alpha=self.alpha,
            shortlist=self.settings.shortlist,
        )
        # a map that is the same for all samples tells nothing, whatever rounding says
        silent_last = np.argsort(~informative(logs)[found.order], kind="stable")
        return dataclasses.replace(found, order=found.order[silent_last])

    def _candidates(self, logs: Singles, ordering: Ordering, base: Floats | None) -> list[int]:
        """Return numbers of channels that may be kept, best first."""
        curve, mode = ordering.cmi[:-1], self.settings.mode
        if self.settings.cut == "scree":
            return cuts.scree(curve, mode)
        if self.settings.cut == "x-means":
            return cuts.x_means(curve, self.xmeans)
        return cuts.permutation(
            logs, ordering, self.target, base, alpha=self.alpha, seed=self.evidence.seed
        )

    def _chosen(
        self, group: Group, ordering: Ordering, candidates: list[int], gone: NDArray[np.int64]
    ) -> int:
        """Return how many channels stay: the fewest that are accepted.

        If none is, the most of the candidates ("paper"), or the fewest that are accepted beyond them,
        by a few halvings ("robust"). Where a budget decides afterwards, the best candidate stands in.
        """
        possible = sorted({keep for keep in candidates if 0 < keep < len(group)})
        if not possible:
            return len(group)
        if self.evidence.quality is None:
            return next(keep for keep in candidates if keep in possible)

        def accepts(keep: int) -> bool:
            return self._accepts(np.append(gone, group.units[ordering.order[keep:]]))

        if (found := next(filter(accepts, possible), None)) is not None:
            return found
        return (
            possible[-1]
            if self.settings.mode == "paper"
            else _halved(accepts, possible[-1], len(group))
        )

    def _accepts(self, gone: NDArray[np.int64]) -> bool:
        quality = self.evidence.quality
        return quality is None or quality(gone) >= self.before - self.settings.tolerance


_NONE = np.empty(0, np.int64)
_HALVINGS = 4  # a sixteenth of the channels beyond the knee is fine enough


def _halved(accepts: Callable[[int], bool], refused: int, all_of_them: int) -> int:
    """Return nearly the fewest that are accepted, above a number that is not."""
    low, high = refused, all_of_them
    for _ in range(_HALVINGS):
        middle = (low + high) // 2
        if middle == low:
            break
        low, high = (low, middle) if accepts(middle) else (middle, high)
    return high


def _arrays(ordering: Ordering) -> dict[str, NDArray[np.generic]]:
    fields = dataclasses.fields(ordering)
    return {field.name: getattr(ordering, field.name) for field in fields}


def _ranking(layer: _Layer) -> Ranking:
    """Score by the information lost with each unit, made to fall along the order, which breaks ties."""
    order, curve = layer.ordering.order, layer.ordering.cmi
    count = len(order)
    missing = np.append(layer.ordering.joint[-1] - layer.known, curve)
    falling = isotonic_regression(missing[:-1] - missing[1:], increasing=False).x
    scores = np.empty(count)
    scores[order] = np.maximum(falling, 0.0) + (count - np.arange(count)) / count * _TIE
    scores[~layer.tells] = 0.0
    keep = np.zeros(count, np.bool_)
    keep[order[: layer.keep]] = True
    curves = {
        "cmi": curve,
        "joint": layer.ordering.joint,
        "filled": layer.ordering.filled,
        "kept": np.array([float(layer.keep)]),
    }
    if layer.ordering.error.any():
        curves["error"] = layer.ordering.error
    return Ranking(scores, keep, curves, tuple(_notes(layer)))


def _notes(layer: _Layer) -> Iterator[str]:
    name, error = layer.group.name, float(layer.ordering.error.max())
    if len(full := np.flatnonzero(layer.ordering.filled > _SATURATED)):
        yield (
            f"'{name}': after {full[0] + 1} of {len(layer.group)} channels the kernels tell all samples "
            "apart: the order of the rest says nothing"
        )
    if error:
        yield f"'{name}': entropies are approximate: information is off by up to about {error:.2g} nats"


CRITERIA.register("cmi")(Cmi())
