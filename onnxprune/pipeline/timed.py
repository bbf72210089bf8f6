"""A budget in time: a model of the time is fitted, met, and held against the clock.

The model's kernels are timed in some cut copies on the target (`onnxprune.latency`); that gives time as a
sum of products of lengths, each that of a node, and the budget is met as one in MACs is, blocks included.
What comes out is timed there too; where the fit was off, the aim moves by as much and widths are chosen
anew. Blocks that were left out before are missing from the copies; shares are those of the original.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from ..core.contracts import SURGERIES
from ..core.errors import BudgetError
from ..latency.copies import Copy
from ..measure.clock import Clock
from ..selection.budget import Budget
from ..show.report import plain
from ..structure.blocks import find_blocks
from .decide import Decision, Ranked, ranked
from .fit import measured
from .joint import choosing
from .request import PruneRequest
from .study import Subject

_CLOSE = 0.03  # how far the measured time may be from the one asked for
_SAME = 1e-3  # aims that differ by less choose the same
_ROUNDS = 3
_ALMOST_ALL = 0.999  # the largest share of the time that is aimed at


@dataclasses.dataclass(frozen=True)
class Round:
    """One choice of widths.

    Attributes:
        aim: the share of the time that the fit was to come to.
        predicted: what it came to.
        measured: what the clock said.
    """

    aim: float
    predicted: float
    measured: float


@dataclasses.dataclass(frozen=True)
class Times:
    """How a budget in time was met.

    Attributes:
        asked: share of the original's time.
        milliseconds: of one run of the original, there.
        error: median over cut copies of how far the fit is off, as a share.
        rounds: in order; the last is what was written, unless an earlier one was nearer.
        chosen: which it was.
    """

    asked: float
    milliseconds: float
    error: float
    rounds: tuple[Round, ...]
    chosen: int


def timed(
    request: PruneRequest, subject: Subject, clock: Clock, known: Ranked | None = None
) -> Decision:
    """Choose what goes so that what remains takes the time asked for; `known` as in `decide`.

    Raises:
        BudgetError: if no widths do, or the model is too large to be timed in copies.
        OnnxPruneError: if the target does not run it.
    """
    known = known or ranked(request, subject, clock)
    assert known.time is not None  # since time is the budget
    model, whole = known.time.model, known.time.whole
    latency = model.products.scaled(model.milliseconds)
    subject = dataclasses.replace(subject, cost=subject.cost.with_latency(latency))
    choose = choosing(request, subject, clock, known)
    wanted = _share(request, whole)
    rounds, decisions, aim = list[Round](), list[Decision](), wanted
    while len(rounds) < _ROUNDS:
        budget = Budget("latency", aim * whole, relative=False, asked=_asked(request))
        try:
            decision = choose(budget)
        except BudgetError:  # the aim moved out of reach: what was found so far has to do
            if not rounds:
                raise
            break
        with clock("time the result"):
            cut = Copy.of(decision.mask, SURGERIES["channels"](decision.mask), subject.feeds)
            took = measured(request, subject, cut)
        assert decision.remains is not None
        predicted = decision.remains / whole
        rounds.append(Round(aim, predicted, took))
        decisions.append(decision)
        before, aim = aim, min(predicted * wanted / took, _ALMOST_ALL)
        if abs(took / wanted - 1) <= _CLOSE or abs(aim / before - 1) <= _SAME:
            break
    best = int(np.argmin([abs(np.log(r.measured / wanted)) for r in rounds]))
    times = Times(wanted, whole, model.error, tuple(rounds), best)
    decision = decisions[best]
    return dataclasses.replace(
        decision,
        selection={**decision.selection, "times": plain(times)},
        notes=(*decision.notes, *_notes(request, times), *_untried(request, subject)),
    )


def _share(request: PruneRequest, milliseconds: float) -> float:
    """Return what is asked for as a share of the original's time."""
    assert request.budget is not None
    return request.budget.limit(milliseconds) / milliseconds


def _asked(request: PruneRequest) -> str:
    return f"--latency {request.latency}"


def _notes(request: PruneRequest, times: Times) -> list[str]:
    found = times.rounds[times.chosen]
    said = [
        f"time: {found.measured:.1%} of the original's {times.milliseconds:.3g} ms, asked "
        f"{times.asked:.1%} (the fit said {found.predicted:.1%}; {len(times.rounds)} rounds)"
    ]
    if abs(found.measured / times.asked - 1) > _CLOSE:
        said.append(
            f"{_asked(request)} was not met within {_CLOSE:.0%}: widths or blocks are too coarse, or "
            "the machine too busy"
        )
    return said


def _untried(request: PruneRequest, subject: Subject) -> Iterator[str]:
    """Say that blocks could go, which nobody asked for: narrow layers save little of their time."""
    if request.depth is None and not request.dropped and (found := find_blocks(subject.analysis)):
        are = "residual block could be" if len(found) == 1 else "residual blocks could be"
        yield f"{len(found)} {are} left out whole, too: --depth weighs time won there against channels"
