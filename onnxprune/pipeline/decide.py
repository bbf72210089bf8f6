"""Which units go: scored and selected under a budget, or read from a plan."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.analysis import Mask
from ..core.blocks import Block
from ..core.configured import settings_of
from ..core.contracts import Criterion, Evidence, Ranking, Repair
from ..core.errors import BudgetError, OnnxPruneError
from ..core.external import INLINE_LIMIT, weight_bytes
from ..core.graph import Graph
from ..core.stats import Statistics
from ..core.threads import blas_threads
from ..files.store import digest
from ..measure.clock import Clock
from ..measure.drop import Search
from ..plan import DepthRound, Settings, Step, mask_of, read_plan, versions
from ..selection.budget import Budget
from ..selection.select import as_listed, check, follow, select
from .collect import collect
from .damage import Damage
from .deepen import divided, look
from .depth import remaining
from .fit import Fit, fit
from .memory import Memory, content
from .quality import Quality
from .ranked import rankings_of
from .request import PruneRequest
from .study import Subject

Floats = NDArray[np.float64]

_MEMORY = 3  # raise it when what criteria remember changes its meaning


@dataclasses.dataclass(frozen=True)
class Decision:
    """What goes, why, and what was learnt on the way.

    Attributes:
        subject: what it is about: without the blocks that go.
        mask: what is removed of that.
        criterion: what scored the units, with its settings.
        selection: budget and options, for the plan.
        repair: name and object of the repair to come.
        evidence: what the criterion looked at; the repair looks at it too.
        scores: per group float64, shape (U,); empty when a plan decided.
        notes: what the user should know.
        search: that found the budget; None if the user gave it.
        repaired: what a search has repaired already.
        remains: what is left of the budget's figure; None where no budget decided.
    """

    subject: Subject
    mask: Mask
    criterion: Step
    selection: Settings
    repair: tuple[str, Repair]
    evidence: Evidence
    scores: tuple[Floats, ...] = ()
    notes: tuple[str, ...] = ()
    search: Search | None = None
    repaired: Graph | None = None
    remains: float | None = None


def decide(
    request: PruneRequest, subject: Subject, clock: Clock, known: Ranked | None = None
) -> Decision:
    """Choose what goes, or read it from a plan; `known`: by a ranking that was made already.

    Raises:
        BudgetError: if the budget is out of reach, before any sample was run.
        OnnxPruneError: if criterion or repair need samples and there are none, or the plan does not fit.
    """
    if request.plan is not None:
        return _planned(request, subject, clock)
    if request.only_lists:
        return _listed(request, subject, clock)
    budget = request.budget
    if subject.depth is not None and budget is not None:
        budget = remaining(budget, subject.whole, subject.cost)
    if subject.depth is not None and budget is None and not request.scoring[1].chooses:
        return blocks_alone(request, subject)
    if budget is not None:
        check(subject.cost, budget, request.options)
    return chosen(request, subject, known or ranked(request, subject, clock), budget, clock)


@dataclasses.dataclass(frozen=True)
class Ranked:
    """What is known before a budget: it serves any number of them.

    Attributes:
        criterion, repair: name and object.
        evidence: what the criterion looked at; the repair looks at it too.
        rankings: one per group.
        blocks: that may go, with their scores; None where they are not chosen with channels.
        time: how long the model takes by its widths; None where time is not the budget.
    """

    criterion: tuple[str, Criterion]
    repair: tuple[str, Repair]
    evidence: Evidence
    rankings: list[Ranking]
    blocks: tuple[tuple[Block, ...], DepthRound] | None = None
    time: Fit | None = None


def ranked(request: PruneRequest, subject: Subject, clock: Clock) -> Ranked:
    """Run the calibration and let the criterion rank all units; fit the time where that is the budget.

    Raises:
        OnnxPruneError: if criterion or repair need samples and there are none, or the time cannot be fitted.
    """
    name, criterion = request.scoring
    refuse_without_samples("criterion", name, criterion, subject, "choose l1, l2, fpgm or random")
    repair = request.repairing
    refuse_without_samples("repair", *repair, subject, "choose none")
    blocks, time = None, fit(request, subject, clock) if request.by_time else None
    if request.joint:
        fitted, _ = divided(request, subject.calibration, subject.judges)
        blocks = look(request, subject.analysis, fitted, clock)
    evidence = gathered(request, subject, criterion.needs | repair[1].needs, clock)
    rankings = rank(request, subject, evidence, clock)
    return Ranked((name, criterion), repair, evidence, rankings, blocks, time)


def rank(
    request: PruneRequest, subject: Subject, evidence: Evidence, clock: Clock
) -> list[Ranking]:
    """Let the request's criterion rank all units by evidence at hand."""
    with clock("score"), blas_threads(subject.analysis):
        helped = _helped(evidence, request, subject)
        return rankings_of(request.scoring[1], helped, request.progress)


def chosen(
    request: PruneRequest, subject: Subject, known: Ranked, budget: Budget | None, clock: Clock
) -> Decision:
    """Choose what goes under a budget; None: what the criterion itself would let go.

    Raises:
        BudgetError: if the budget is out of reach, or nothing goes.
    """
    (name, criterion), rankings = known.criterion, known.rankings
    scores = [ranking.scores for ranking in rankings]
    asked = budget.asked if budget else f"criterion '{name}'"
    with clock("select"):
        if budget is None:
            found = follow(subject.cost, rankings, request.options)
        else:
            found = select(
                subject.cost,
                scores,
                budget,
                request.options,
                comparable=criterion.comparable,
            )
    if not len(found.units):
        raise BudgetError(f"{asked} removes nothing: lower --round-to, or ask for more")
    mask, cost, remains = subject.analysis.mask(found.units), subject.cost, None
    if budget is not None and budget.figure != "units":
        remains = cost.figure(budget.figure, cost.lengths(mask.removed))
    return Decision(
        subject=subject,
        mask=mask,
        criterion=Step(name, settings_of(criterion)),
        selection={"budget": with_blocks(asked, request)}
        | dataclasses.asdict(request.options)
        | ({} if found.lost is None else {"lost": found.lost}),
        repair=known.repair,
        evidence=known.evidence,
        scores=tuple(scores),
        notes=tuple(dict.fromkeys(note for ranking in rankings for note in ranking.notes)),
        remains=remains,
    )


def _listed(request: PruneRequest, subject: Subject, clock: Clock) -> Decision:
    """Remove what the user's lists of what to keep do not name."""
    repair = request.repairing
    refuse_without_samples("repair", *repair, subject, "choose none")
    chosen = as_listed(subject.cost, request.options)
    if not len(chosen.units):
        raise BudgetError("the lists of what to keep name everything: nothing goes")
    return Decision(
        subject=subject,
        mask=subject.analysis.mask(chosen.units),
        criterion=Step("listed"),
        selection={"budget": with_blocks("lists of what to keep", request)}
        | dataclasses.asdict(request.options),
        repair=repair,
        evidence=gathered(request, subject, repair[1].needs, clock),
    )


def blocks_alone(request: PruneRequest, subject: Subject) -> Decision:
    """Leave out the blocks and nothing else: there is no budget, or it is met without them."""
    repair = request.repairing
    if repair[0] != "none" and not repair[1].needs_samples:
        raise OnnxPruneError(
            f"--repair {repair[0]} refits what reads removed channels, and none go: choose "
            "sequential, which fits to the original with its blocks, or ask for less to remain"
        )
    refuse_without_samples("repair", *repair, subject, "choose none")
    asked = request.budget.asked if request.budget else ""
    return Decision(
        subject=subject,
        mask=subject.analysis.mask(np.empty(0, np.int64)),
        criterion=Step("blocks"),
        selection={"budget": with_blocks(asked, request)} | dataclasses.asdict(request.options),
        repair=repair,
        evidence=Evidence(subject.analysis, None, request.seed, request.labels),
        notes=(f"{asked} is met without the blocks: no channels go",) if asked else (),
    )


def with_blocks(asked: str, request: PruneRequest) -> str:
    """Say what was asked for, blocks first."""
    blocks = [f"--drop-block {name}" for name in request.dropped]
    blocks += [f"--depth {request.depth}"] if request.depth else []
    blocks += [f"--blocks {request.blocks}"] if request.blocks is not None else []
    return ", ".join([*blocks, *filter(None, [asked])])


def _planned(request: PruneRequest, subject: Subject, clock: Clock) -> Decision:
    """Take over what a plan says; repair as it was repaired then, if there are samples for it."""
    assert request.plan is not None
    plan = read_plan(request.plan)
    with clock("plan"):
        mask = mask_of(subject.analysis, plan, sha256=digest(subject.path))
    then = plan.repair.name if plan.repair else "none"
    notes: tuple[str, ...] = ()
    repair = request.repairing if request.repair else request.named_repair(then)
    if not request.repair and subject.calibration is None and _needs(repair[1]):
        notes = (f"the plan was repaired with '{then}': give --data to do so again",)
        repair = request.named_repair("none")
    refuse_without_samples("repair", *repair, subject, "choose none")
    evidence = gathered(request, subject, repair[1].needs, clock)
    return Decision(subject, mask, plan.criterion, plan.selection, repair, evidence, notes=notes)


def _needs(used: Criterion | Repair) -> bool:
    return bool(used.needs) or getattr(used, "needs_samples", False)


def refuse_without_samples(
    kind: str, name: str, used: Criterion | Repair, subject: Subject, instead: str
) -> None:
    """Say at once what needs samples, where there are none.

    Raises:
        OnnxPruneError: then.
    """
    if _needs(used) and subject.calibration is None:
        raise OnnxPruneError(f"{kind} '{name}' needs sample inputs: give --data, or {instead}")


def gathered(
    request: PruneRequest, subject: Subject, needs: frozenset[str], clock: Clock
) -> Evidence:
    """Run the model over the calibration samples, once, for what criterion and repair read."""
    statistics: Statistics | None = None
    samples = subject.calibration
    known = request.labels if samples is not None and request.labels in samples.extra else None
    if samples is not None and needs:
        with clock("calibrate"):
            statistics = collect(
                subject.analysis, samples, needs, rows=request.rows, labels=known,
                provider=request.provider, seed=request.seed, progress=request.progress,
            )  # fmt: skip
    return Evidence(subject.analysis, statistics, request.seed, known)


def _helped(evidence: Evidence, request: PruneRequest, subject: Subject) -> Evidence:
    """Add what a criterion may ask for beside statistics: what a cut does, and a memory."""
    samples = subject.calibration
    if samples is None:
        return evidence
    damage = None
    if evidence.statistics is not None and weight_bytes(subject.graph) <= INLINE_LIMIT:
        damage = Damage(evidence, samples, request.provider)
    name, criterion = request.scoring
    quality = None
    if criterion.chooses and not request.bounded:
        quality = Quality(
            evidence, samples, request.labels, request.provider, request.repairing[1], request.ridge
        )
    memo = evidence.memo
    if request.work is not None:
        decided_by = {
            "model": digest(subject.path), "data": content(samples), "samples": samples.count,
            "criterion": name, "settings": settings_of(criterion), "seed": request.seed,
            "labels": request.labels, "repair": request.repairing[0],
            "budget": request.bounded, "rows": request.rows,
            "unlock": str(request.unlocked), "provider": request.provider,
            "versions": dict(versions()),
            "blocks": [block.y for block in subject.depth.blocks] if subject.depth else [],
            "format": _MEMORY,
        }  # fmt: skip
        memo = Memory(Path(request.work), decided_by)
    return dataclasses.replace(evidence, quality=quality, damage=damage, memo=memo)
