"""Which units go: scored and selected under a budget, or read from a plan."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from .clock import Clock
from .collect import collect
from .core.analysis import Mask
from .core.contracts import Criterion, Evidence, Repair
from .core.errors import BudgetError, OnnxPruneError
from .core.stats import Statistics
from .core.threads import blas_threads
from .files import digest
from .planfile import Settings, Step, read_plan
from .reapply import mask_of
from .request import PruneRequest
from .select import check, select
from .study import Subject

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Decision:
    """What goes, why, and what was learnt on the way.

    Attributes:
        mask: what is removed.
        criterion: what scored the units, with its settings.
        selection: budget and options, for the plan.
        repair: name and object of the repair to come.
        evidence: what the criterion looked at; the repair looks at it too.
        scores: per group float64, shape (U,); empty when a plan decided.
        notes: what the user should know.
    """

    mask: Mask
    criterion: Step
    selection: Settings
    repair: tuple[str, Repair]
    evidence: Evidence
    scores: tuple[Floats, ...] = ()
    notes: tuple[str, ...] = ()


def decide(request: PruneRequest, subject: Subject, clock: Clock) -> Decision:
    """Choose what goes, or read it from a plan.

    Raises:
        BudgetError: if the budget is out of reach, before any sample was run.
        OnnxPruneError: if criterion or repair need samples and there are none, or the plan does not fit.
    """
    if request.plan is not None:
        return _planned(request, subject, clock)
    assert request.budget is not None
    check(subject.cost, request.budget, request.options)
    name, criterion = request.scoring
    _refuse_without_samples("criterion", name, criterion, subject, "choose l1, l2, fpgm or random")
    repair = request.repairing
    _refuse_without_samples("repair", *repair, subject, "choose none")
    evidence = _evidence(request, subject, criterion.needs | repair[1].needs, clock)
    with clock("score"), blas_threads(subject.analysis):
        scores = []
        for number, group in enumerate(subject.analysis.groups):
            scores.append(criterion.score(group, evidence))
            request.progress("score", number + 1, len(subject.analysis.groups))
    with clock("select"):
        chosen = select(
            subject.cost, scores, request.budget, request.options, comparable=criterion.comparable
        )
    if not len(chosen.units):
        raise BudgetError(
            f"{request.budget.asked} removes nothing: lower --round-to, or ask for more"
        )
    return Decision(
        mask=subject.analysis.mask(chosen.units),
        criterion=Step(name, settings_of(criterion)),
        selection={"budget": request.budget.asked} | dataclasses.asdict(request.options),
        repair=repair,
        evidence=evidence,
        scores=tuple(scores),
    )


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
    _refuse_without_samples("repair", *repair, subject, "choose none")
    evidence = _evidence(request, subject, repair[1].needs, clock)
    return Decision(mask, plan.criterion, plan.selection, repair, evidence, notes=notes)


def _needs(used: Criterion | Repair) -> bool:
    return bool(used.needs) or getattr(used, "needs_samples", False)


def _refuse_without_samples(
    kind: str, name: str, used: Criterion | Repair, subject: Subject, instead: str
) -> None:
    if _needs(used) and subject.calibration is None:
        raise OnnxPruneError(f"{kind} '{name}' needs sample inputs: give --data, or {instead}")


def _evidence(
    request: PruneRequest, subject: Subject, needs: frozenset[str], clock: Clock
) -> Evidence:
    """Run the model over the calibration samples, once, for what criterion and repair read."""
    statistics: Statistics | None = None
    if subject.calibration is not None and needs:
        with clock("calibrate"):
            statistics = collect(
                subject.analysis, subject.calibration, needs, rows=request.rows,
                provider=request.provider, seed=request.seed, progress=request.progress,
            )  # fmt: skip
    return Evidence(subject.analysis, statistics, request.seed)


def settings_of(registered: object) -> Settings:
    """Return the settings of a criterion or repair: the fields of its dataclass."""
    if dataclasses.is_dataclass(registered) and not isinstance(registered, type):
        return dataclasses.asdict(registered)
    return {}
