"""Chooses which whole blocks go by a depth score: so many of them, or as long as the model holds.

Where a drop is allowed (--max-drop), a guard that accepts more is held to that.

The samples that judge a round are half of those of --judge, else the last quarter of the calibration
samples, which no repair of it has seen; what is held out for the report or a search judges nothing here.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..core.analysis import Analysis, Mask
from ..core.blocks import Block
from ..core.configured import settings_of
from ..core.contracts import SURGERIES, Evidence, RepairTask, Samples
from ..core.depth import DepthEvidence, DepthRanking, DepthScore, Guard
from ..core.errors import BudgetError, DataError, OnnxPruneError
from ..core.graph import Graph
from ..core.runtime import Session
from ..core.threads import blas_threads
from ..measure.clock import Clock
from ..measure.drop import Metric
from ..measure.evaluate import evaluate
from ..measure.recorded import Recorded
from ..plan import DepthRound, PlannedDepth
from ..structure.blocks import find_blocks
from ..structure.dependency import analyse
from ..structure.streams import competing, streams
from .collect import collect
from .request import PruneRequest

Floats = NDArray[np.float64]
Blocks = tuple[Block, ...]

_JUDGES = 4  # one in so many samples judges
_FEWEST_JUDGES = 16
_DIGITS = 6  # of similarities, in the plan
_NO_UNITS = np.empty(0, np.int64)


def choose(
    request: PruneRequest,
    entire: Analysis,
    samples: Samples | None,
    judges: Samples | None,
    clock: Clock,
) -> tuple[Mask | None, PlannedDepth]:
    """Choose the blocks that go, and say how.

    Args:
        request: with the score.
        entire: of the whole model.
        samples: to calibrate on; None where there are none.
        judges: that judge rounds; None: the last of `samples` do.
        clock: times the steps.

    Returns:
        the blocks as a mask of `entire`, None if none goes and channels are to; and the record.

    Raises:
        BudgetError: if so many blocks are not there, or none goes without losing too much.
        DataError: if there are too few samples.
        OnnxPruneError: if the model has no blocks, or the score needs samples and there are none.
    """
    name, score = request.deepening
    chooser = _Chooser(request, entire, blocks_of(request, entire, samples), samples, judges, clock)
    if score.guard is None:
        gone, planned = chooser.ranked(name, score)
    else:
        gone, planned = chooser.guarded(name, score, score.guard)
    if not gone:
        return None, planned
    return entire.mask(_NO_UNITS, tuple(sorted(gone, key=lambda b: b.nodes[-1]))), planned


def look(
    request: PruneRequest, entire: Analysis, samples: Samples, clock: Clock
) -> tuple[Blocks, DepthRound]:
    """Rank the blocks of a whole model and leave out none.

    Raises:
        OnnxPruneError: if the model has no blocks.
    """
    _, score = request.deepening
    blocks = blocks_of(request, entire, samples)
    chooser = _Chooser(request, entire, blocks, samples, None, clock)
    seen = chooser._look(entire, (), score, samples)
    return seen.blocks, chooser._round(score, seen, chooser._ranking(score, seen), ())


def blocks_of(request: PruneRequest, entire: Analysis, samples: Samples | None) -> Blocks:
    """Return the blocks that compete."""
    name, score = request.deepening
    blocks = competing(find_blocks(entire), score.level)
    if not blocks:
        raise OnnxPruneError(f"--depth {name}: the model has no block that can be left out whole")
    if samples is None and (score.needs or score.needs_samples):
        raise OnnxPruneError(
            f"depth score '{name}' needs sample inputs: give --data, or choose random"
        )
    return blocks


def divided(
    request: PruneRequest, samples: Samples | None, judges: Samples | None
) -> tuple[Samples, Samples]:
    """Divide calibration samples: those to fit to, and those that judge, unless others do.

    Raises:
        DataError: if there are too few.
    """
    if samples is not None and judges is not None:
        return samples, judges
    count = 0 if samples is None else samples.count // _JUDGES
    if samples is None or count < _FEWEST_JUDGES:
        raise DataError(
            f"--depth {request.depth}: one in {_JUDGES} calibration samples judges what is lost, "
            f"found {count}: give at least {_JUDGES * _FEWEST_JUDGES} samples, or --judge"
        )
    edge = samples.count - count
    return samples.part(0, edge), samples.part(edge, samples.count)


@dataclasses.dataclass(frozen=True)
class _Look:
    """What is seen of a model without some blocks: the blocks of `entire` that are left, and more."""

    blocks: Blocks
    evidence: DepthEvidence


@dataclasses.dataclass
class _Chooser:
    """One choice of blocks."""

    request: PruneRequest
    entire: Analysis
    blocks: Blocks
    samples: Samples | None
    judges: Samples | None
    clock: Clock

    def ranked(self, name: str, score: DepthScore) -> tuple[Blocks, PlannedDepth]:
        """Leave out as many blocks as asked for, those of the lowest scores."""
        count, asked = self.request.block_count or 0.0, self.request.blocks
        number = int(count) if count >= 1 else int(count * len(self.blocks))
        if not 1 <= number <= len(self.blocks):
            raise BudgetError(
                f"--blocks {asked} is out of reach: {len(self.blocks)} blocks compete at level "
                f"'{score.level}'"
            )
        look = self._look(self.entire, (), score, self.samples)
        ranking = self._ranking(score, look)
        gone = tuple(look.blocks[i] for i in np.argsort(ranking.scores, kind="stable")[:number])
        return gone, PlannedDepth(name, None, 0, (self._round(score, look, ranking, gone),))

    def guarded(self, name: str, score: DepthScore, guard: Guard) -> tuple[Blocks, PlannedDepth]:
        """Leave out what the score says, round by round, while the drop stays within its threshold."""
        gone: Blocks = ()
        rounds: list[DepthRound] = []
        fitted, judges = divided(self.request, self.samples, self.judges)
        if self.request.max_drop is not None:
            guard = dataclasses.replace(guard, threshold=min(guard.threshold, self.request.allowed))
        look = self._look(self.entire, gone, score, fitted)
        finer: DepthScore | None = score
        metric: Metric = "agreement"
        while finer is not None and len(rounds) < guard.rounds:
            ranking = self._ranking(finer, look)
            more = self._going(look, ranking)
            if not more:
                rounds.append(self._round(finer, look, ranking, ()))
                break
            model = self._without((*gone, *more), fitted)
            metric, drop = self._drop(model, judges)
            found = self._round(finer, look, ranking, more)
            found = dataclasses.replace(found, drop=drop, accepted=drop <= guard.threshold)
            rounds.append(found)
            if found.accepted:
                gone = (*gone, *more)
                look = self._look(analyse(model), gone, finer, fitted)
            else:
                finer = finer.finer()
        if not gone and not self.request.bounded:
            raise BudgetError(_nothing_goes(name, rounds, guard))
        return gone, PlannedDepth(name, metric, judges.count, tuple(rounds))

    # -- one round ------------------------------------------------------------------------------
    def _look(
        self, analysis: Analysis, gone: Blocks, score: DepthScore, samples: Samples | None
    ) -> _Look:
        """Find the blocks that are left, and gather what the score reads of them."""
        begin = {block.y: block.x for block in gone}
        left: dict[tuple[str, str], Block] = {}
        for block in self.blocks:
            x = block.x
            while x in begin:
                x = begin[x]
            if block not in gone:
                left[x, block.y] = block
        here = [b for b in find_blocks(analysis) if (b.x, b.y) in left]
        found = streams(analysis, here)
        evidence = DepthEvidence(
            analysis, tuple(here), tuple(p.tensor for p in found.points), found.ends,
            samples=samples, provider=self.request.provider, seed=self.request.seed,
        )  # fmt: skip
        if samples is not None and score.needs:
            with self.clock("calibrate"):
                statistics = collect(
                    analysis, samples, score.needs, points=found.points, pairs=found.ends,
                    provider=self.request.provider, seed=self.request.seed,
                    progress=self.request.progress,
                )  # fmt: skip
            evidence = dataclasses.replace(evidence, statistics=statistics)
        return _Look(tuple(left[b.x, b.y] for b in here), evidence)

    def _ranking(self, score: DepthScore, look: _Look) -> DepthRanking:
        with self.clock("score blocks"):
            return score.rank(look.evidence, self.request.progress)

    @staticmethod
    def _going(look: _Look, ranking: DepthRanking) -> Blocks:
        goes = np.zeros(len(look.blocks), np.bool_) if ranking.goes is None else ranking.goes
        return tuple(block for block, out in zip(look.blocks, goes, strict=True) if out)

    def _without(self, gone: Blocks, samples: Samples) -> Graph:
        """Leave blocks out and repair the rest."""
        with self.clock("cut"):
            shallow = analyse(SURGERIES["blocks"](self.entire.mask(_NO_UNITS, gone)))
        name, repair = self.request.repairing
        if name == "none" or not repair.needs_samples:
            return shallow.graph
        task = RepairTask(
            shallow.mask(_NO_UNITS), shallow.graph, Evidence(shallow, None), samples,
            self.request.ridge, self.request.rows, self.request.progress, self.entire.graph,
        )  # fmt: skip
        with self.clock("repair"), blas_threads(shallow):
            return repair.apply(task)

    @cached_property
    def _reference(self) -> Recorded:
        return Recorded(self.entire.graph, provider=self.request.provider)

    def _drop(self, model: Graph, judges: Samples) -> tuple[Metric, float]:
        """Return what is lost against the original: accuracy, agreement, or else output error."""
        with self.clock("compare"):
            found = evaluate(
                Session(model, provider=self.request.provider), judges,
                labels=self.request.labels, reference=self._reference,
            )  # fmt: skip
        if found.accuracy is not None and found.reference is not None:
            return "accuracy", found.reference.top1 - found.accuracy.top1
        if found.agreement is not None:
            return "agreement", 1 - found.agreement
        return "error", found.error or 0.0

    def _round(
        self, score: DepthScore, look: _Look, ranking: DepthRanking, gone: Blocks
    ) -> DepthRound:
        statistics = look.evidence.statistics
        alignment = None if statistics is None else statistics.alignment
        names = [block.name for block in look.blocks]
        return DepthRound(
            settings=settings_of(score),
            scores=dict(zip(names, map(float, ranking.scores), strict=True)),
            blocks=tuple(block.name for block in gone),
            points=() if alignment is None else alignment.points,
            similarity=() if alignment is None else _table(alignment.similarity),
            spread=() if alignment is None else _table(alignment.spread),
            clusters=ranking.clusters,
            cuts=tuple(
                end
                for b, (_, end) in zip(look.blocks, look.evidence.ends, strict=True)
                if b in gone
            ),
        )


def _table(matrix: Floats) -> tuple[tuple[float | None, ...], ...]:
    return tuple(
        tuple(round(float(v), _DIGITS) if np.isfinite(v) else None for v in row) for row in matrix
    )


def _nothing_goes(name: str, rounds: list[DepthRound], guard: Guard) -> str:
    tried = [found for found in rounds if found.drop is not None]
    if not tried:
        likest = 1 - min(rounds[-1].scores.values(), default=1.0)
        return (
            f"--depth {name} leaves out nothing: no end of a block is alike enough to the cluster "
            f"before it, the most alike by {100 * likest:.1f} %: lower tau"
        )
    least = min(found.drop for found in tried if found.drop is not None)
    return (
        f"--depth {name} leaves out nothing: every round lost more than {guard.threshold:.1%}, the "
        f"least {least:.1%}: raise threshold, or tau"
    )
