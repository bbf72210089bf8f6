"""MIPP: nodes that transfer no entropy to the next layer go (Westphal et al. 2024, arXiv 2411.00147).

Groups are visited from outputs to inputs. In each, TERC (`_terc_walk`) tests the nodes against the
values of the nodes that read them and are still there. As in the paper, with the confidence one of
`schedule()`: `mipp:estimator=mlp,estimates=5,tolerance=0,nulls=0,collapse=l1,reference=full`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxprune.core.contracts import CRITERIA, Evidence, Progress, Ranking, silent
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.stats import Norm

from ._layers import layer_order
from ._mipp_views import Either, Kept, Sampled, Summarised, View
from ._terc import Ridge, eliminated, schedule
from ._terc_walk import Fit, Reference, judged, perceptrons

_FEWEST = 16  # samples


@dataclasses.dataclass(frozen=True)
class Mipp:
    """Keeps the nodes that transfer entropy to the nodes kept after them.

    Attributes:
        confidence: x of the paper: a higher one prunes more.
        tolerance: rise of the held-out loss that is allowed per group, as a share of what predicting
            the mean costs.
        estimates: how many estimates the confidence is about (the paper: 5), each the mean over as
            many parts of the samples; 0: every sample is one.
        collapse: how a map becomes one number (the paper: "l1"); "patches": what it adds to sampled
            outputs instead, which keeps sign and position, and compares between groups; "auto":
            patches for maps, single values as they are.
        reference: the loss of all nodes ("full", as in the paper), the least so far ("best"), or that
            of the nodes left so far.
        nulls: shuffled nodes that show what chance reaches.
        under: what ranks under a budget: the "loss" when nodes go one by one, the cheapest first
            (ridge), or the highest "confidence" of the paper's schedule that a node survives, so
            that the budget chooses x (20 passes; with "l1" no better, benchmarks/RESULTS.md).
        estimator: "ridge", in closed form, or "mlp", the paper's networks (needs PyTorch).
        damping: of the ridge.
        networks, hidden, first, again, ordering: of "mlp": how many networks, the width of their two
            hidden layers, iterations of the first fit, once a node is masked (the paper: 20 for
            VGG), and of the fit to a node alone.
    """

    confidence: float = 0.95
    tolerance: float = 0.01
    estimates: int = 0
    collapse: Norm | Literal["patches", "auto"] = "auto"
    reference: Reference = "best"
    nulls: int = 8
    under: Literal["loss", "confidence"] = "loss"
    estimator: Literal["ridge", "mlp"] = "ridge"
    damping: float = 1e-3
    networks: int = 3
    hidden: int = 256
    first: int = 1500
    again: int = 150
    ordering: int = 35
    comparable = True
    zero_is_least = True
    chooses = True

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            OnnxPruneError: naming the setting.
        """
        if not 0 < self.confidence < 1:
            raise OnnxPruneError(f"mipp:confidence={self.confidence}: expected above 0 and below 1")
        for name, least in (("estimates", 2), ("networks", 2), ("hidden", 1), ("first", 1)):
            value = getattr(self, name)
            if value < least and (name, value) != ("estimates", 0):
                raise OnnxPruneError(f"mipp:{name}={value}: expected {least} or more")

    @property
    def needs(self) -> frozenset[str]:
        """Which statistics it reads."""
        sampled = frozenset({"contributions", "streams"})
        by_collapse = {"patches": sampled, "auto": sampled | {"summaries"}}
        return by_collapse.get(self.collapse, frozenset({"summaries"}))

    def rank(self, evidence: Evidence, progress: Progress = silent) -> list[Ranking]:
        """Return one ranking per group; scores are as `under` says."""
        view = self._view(evidence)
        if self.under == "loss" or evidence.quality is not None:
            return self._pass(self.confidence, view, evidence, progress)
        passes = [self._pass(x, view, evidence, progress) for x in schedule()]
        return [_by_confidence(levels) for levels in zip(*passes, strict=True)]

    def _pass(
        self, confidence: float, view: View, evidence: Evidence, progress: Progress
    ) -> list[Ranking]:
        """Go through all groups once; scores are shares of the targets' variance lost."""
        groups = evidence.analysis.groups
        found: dict[int, Ranking] = {}
        kept: dict[int, NDArray[np.bool_]] = {}
        for done, number in enumerate(reversed(layer_order(evidence.analysis))):
            make = partial(self._arrays, number, kept, view, confidence, evidence.seed)
            held = evidence.memo(f"mipp-{number}-{1 - confidence:.3e}", make)
            found[number] = _ranking(held)
            kept[number] = np.asarray(found[number].keep)
            progress(f"mipp, {confidence:.4%} sure", done + 1, len(groups))
        return [found[number] for number in range(len(groups))]

    def _arrays(
        self, number: int, kept: Kept, view: View, confidence: float, seed: int
    ) -> dict[str, NDArray[np.generic]]:
        """Test and rank the nodes of one group."""
        seen = view.seen(number, kept)
        pools = seen.samples % self.estimates if self.estimates else seen.samples
        result = judged(
            seen.nodes, seen.targets, fit=self._fit(seed), pools=pools,
            confidence=confidence, tolerance=self.tolerance, reference=self.reference,
            nulls=self.nulls, seed=seed,
        )  # fmt: skip
        order, rise = eliminated(seen.nodes, seen.targets, damping=self.damping)
        return {
            "keep": result.keep, "rise": result.rise, "bound": result.bound,
            "certainty": result.certainty, "order": result.order, "loss": np.array(result.loss),
            "scores": rise * seen.weight, "gone": order,
        }  # fmt: skip

    def _fit(self, seed: int) -> Fit:
        """Return what fits a predictor to nodes and targets."""
        if self.estimator == "ridge":
            return partial(Ridge, damping=self.damping)
        return perceptrons(
            seed, networks=self.networks, hidden=self.hidden, first=self.first, again=self.again,
            ordering=self.ordering,
        )  # fmt: skip

    def _view(self, evidence: Evidence) -> View:
        """Return what nodes are seen as."""
        statistics = evidence.required()
        if statistics.samples < _FEWEST:
            raise OnnxPruneError(
                f"'mipp' needs at least {_FEWEST} samples, found {statistics.samples}: give more --data"
            )
        analysis, given, sums = evidence.analysis, statistics.contributions, statistics.summaries
        sampled = None if given is None else Sampled(analysis, given, statistics.moments)
        if self.collapse == "patches":
            assert sampled is not None  # it is what `needs` names
            return sampled
        assert sums is not None
        if self.collapse != "auto":
            return Summarised(analysis, sums, self.collapse)
        assert sampled is not None
        return Either(Summarised(analysis, sums, "l1"), sampled)


def _ranking(held: dict[str, NDArray[np.generic]]) -> Ranking:
    """Read what was found; if no node tells anything, the one that the ranking holds best stays."""
    keep = np.asarray(held["keep"], np.bool_).copy()
    scores = np.asarray(held["scores"], np.float64)
    if not keep.any():
        keep[int(np.argmax(scores))] = True
    curves = {
        name: np.asarray(held[name], np.float64)
        for name in ("rise", "bound", "certainty", "order", "loss")
    }
    return Ranking(scores, keep, curves)


def _by_confidence(levels: Sequence[Ranking]) -> Ranking:
    """Return scores that put a node below all that survive more levels; else losses decide."""
    last = levels[-1]
    survived = np.sum([np.asarray(ranking.keep) for ranking in levels], axis=0)
    place = np.argsort(np.argsort(last.scores, kind="stable"), kind="stable") / len(last.scores)
    return dataclasses.replace(last, scores=1000.0 ** (survived - len(levels)) * (1 + place))


CRITERIA.register("mipp")(Mipp())
