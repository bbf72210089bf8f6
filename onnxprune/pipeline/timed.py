"""A budget in time: a model of the time is fitted, met, and held against the clock.

The model's kernels are timed in some cut copies on the target (`onnxprune.latency`); that gives time as a
sum of products of lengths, each that of a node, and the budget is met as one in MACs is, blocks included.
What comes out is timed there too; where the fit was off, the aim moves by as much and widths are chosen
anew. Blocks that were left out before are missing from the copies; shares are those of the original.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..core.contracts import SURGERIES
from ..core.cost import Products
from ..core.errors import BudgetError
from ..core.external import INLINE_LIMIT, weight_bytes
from ..core.graph import Array
from ..core.runtime import onnxruntime
from ..files.store import digest
from ..latency.copies import Copy, Setting, drawn, observed, raced
from ..latency.model import LatencyModel, fitted
from ..measure.clock import Clock
from ..proof.example import instance_of
from ..selection.budget import Budget
from ..show.report import plain
from ..timing.target import Target
from .decide import Decision, Ranked
from .joint import choosing
from .memory import Memory
from .request import PruneRequest
from .study import Subject

COPIES = 16  # cut copies that the fit is made from
_CLOSE = 0.03  # how far the measured time may be from the one asked for
_SAME = 1e-3  # aims that differ by less choose the same
_ROUNDS = 3
_ALMOST_ALL = 0.999  # the largest share of the time that is aimed at
_SECONDS = 3.0  # for what is written
_FORMAT = 2  # raise it when what is remembered changes its meaning


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
    if weight_bytes(subject.graph) > INLINE_LIMIT:
        raise BudgetError("--latency times copies of the model, and this one is too large for that")
    setting = _setting(request)
    with clock("time copies"):
        model = _fitted(request, subject, setting)
        left = _measured(request, subject, Copy(subject.graph, subject.feeds), setting)
    whole = model.milliseconds / left
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
            measured = _measured(request, subject, cut, setting)
        assert decision.remains is not None
        predicted = decision.remains / whole
        rounds.append(Round(aim, predicted, measured))
        decisions.append(decision)
        before, aim = aim, min(predicted * wanted / measured, _ALMOST_ALL)
        if abs(measured / wanted - 1) <= _CLOSE or abs(aim / before - 1) <= _SAME:
            break
    best = int(np.argmin([abs(np.log(r.measured / wanted)) for r in rounds]))
    times = Times(wanted, whole, model.error, tuple(rounds), best)
    decision = decisions[best]
    return dataclasses.replace(
        decision,
        selection={**decision.selection, "times": plain(times)},
        notes=(*decision.notes, *_notes(request, times)),
    )


def _setting(request: PruneRequest) -> Setting:
    target = None if request.device is None else Target.read(Path(request.device))
    return Setting(request.provider, request.threads, target=target)


def _share(request: PruneRequest, milliseconds: float) -> float:
    """Return what is asked for as a share of the original's time."""
    assert request.budget is not None
    return request.budget.limit(milliseconds) / milliseconds


def _asked(request: PruneRequest) -> str:
    return f"--latency {request.latency}"


def _fitted(request: PruneRequest, subject: Subject, setting: Setting) -> LatencyModel:
    """Time cut copies and fit, or remember it."""

    def make() -> dict[str, Array]:
        masks = drawn(subject.analysis, request.options, COPIES, request.seed)
        copies, milliseconds = observed(
            subject.graph, subject.cost, subject.feeds, masks, setting, request.progress
        )
        instance = instance_of(subject.analysis.graph, subject.feeds)
        found = fitted(subject.cost, instance, copies, milliseconds)
        return {
            **vars(found.products),
            "times": np.array([found.milliseconds, found.error]),
        }  # fmt: skip

    held = _memo(request, subject, make)
    milliseconds, error = held["times"].tolist()
    products = Products(held["rows"], held["constants"], held["owners"])
    return LatencyModel(products, milliseconds, error)


def _memo(
    request: PruneRequest, subject: Subject, make: Callable[[], dict[str, Array]]
) -> dict[str, Array]:
    """Remember a fit with --work, by all that decides it."""
    if request.work is None:
        return make()
    device = "" if request.device is None else Path(request.device).read_text()
    decided_by = {
        "latency": _FORMAT, "model": digest(subject.path), "provider": request.provider,
        "threads": request.threads, "device": device, "onnxruntime": onnxruntime().__version__,
        "inputs": {name: np.shape(array) for name, array in subject.feeds.items()},
        "options": dataclasses.asdict(request.options), "copies": COPIES, "seed": request.seed,
        "unlock": str(request.unlocked),
        "blocks": [block.y for block in subject.depth.blocks] if subject.depth else [],
    }  # fmt: skip
    return Memory(Path(request.work), decided_by)("latency", make)


def _measured(request: PruneRequest, subject: Subject, cut: Copy, setting: Setting) -> float:
    """Return the time of a cut model as a share of the original's."""
    if cut.graph is subject.source:
        return 1.0
    longer = dataclasses.replace(setting, seconds=_SECONDS)
    original = Copy(subject.source, subject.feeds)
    return raced(original, cut, longer, request.progress)[0]


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
