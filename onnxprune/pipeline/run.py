"""The one order of steps, from a file and samples to a smaller file that is proved.

    load -> analyse -> open data -> refuse what is out of reach -> calibrate -> score -> select
         -> cut -> prove -> repair -> check -> compare on held-out samples -> time both -> write

Each step takes what the steps before it found and changes nothing of it. Nothing is written before
everything has succeeded; then model and plan appear together.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from ..core.configured import settings_of
from ..core.contracts import SURGERIES
from ..core.errors import OnnxPruneError, UnknownOperatorError
from ..core.external import INLINE_LIMIT, weight_bytes
from ..core.graph import Graph
from ..core.interface import interface_of
from ..core.quantised import quantised_weights
from ..core.runtime import Session
from ..files.store import digest, save
from ..measure import latency
from ..measure.clock import Clock
from ..measure.evaluate import Evaluation, evaluate
from ..measure.latency import Latency
from ..plan import (
    Change,
    DataId,
    ModelId,
    Plan,
    Step,
    faces_of,
    plan_of,
    removed_units,
    to_json,
    write_plan,
)
from ..proof.prove import Proof, check_model, prove, worst
from ..show.report import PruneReport, widths_of
from .decide import Decision, decide
from .guarded import guarded
from .joint import jointly
from .quantise import planned, quantised, refuse_quantising
from .repair import repair
from .request import PruneRequest
from .rounds import in_rounds
from .schedule import is_iterative
from .study import Subject, study
from .timed import timed

log = logging.getLogger(__name__)

_PROVED_ON = 4  # samples; drawn inputs at other sizes come on top
_USEFUL = 0.5  # agreement below which the model is of no use as it is


def prune(request: PruneRequest) -> PruneReport:
    """Carry out one prune.

    Raises:
        OnnxPruneError: whatever the user can mend, in one line; then nothing was written.
    """
    if request.sweep is not None:
        raise OnnxPruneError("a sweep makes several files: call `onnxprune.sweep`")
    clock = Clock(request.progress)
    studied = study(request, clock)
    if request.then is not None:
        refuse_quantising(request, studied)
    decision = deciding(request)(request, studied, clock)
    subject = decision.subject
    if request.dry_run:
        write_plan(_plan(request, subject, decision), request.plan_target)
        return _report(request, subject, decision, clock)
    made = carried_out(request, decision, clock)
    evaluation, times = _compare(request, subject, decision, made.graph, clock)
    files = write(request, subject, made, clock)
    written = [file for file in files if file != request.plan_target.resolve()]
    report = _report(request, subject, decision, clock, written, made.proof, evaluation, times)
    if request.then is None:
        return report
    found = quantised(request, subject, interface_of(decision.mask), clock)
    write_plan(dataclasses.replace(made.plan, int8=planned(found, subject)), request.plan_target)
    return dataclasses.replace(report, quantised=found, seconds=clock.seconds)


@dataclasses.dataclass(frozen=True)
class Made:
    """A pruned model: repaired, with the proof that was made before that, and its plan."""

    graph: Graph
    proof: Proof | None
    plan: Plan


def carried_out(request: PruneRequest, decision: Decision, clock: Clock) -> Made:
    """Cut, prove, repair and check what was decided.

    Raises:
        ProofError: if something else changed, too.
    """
    subject = decision.subject
    pruned, proof = _cut(request, subject, decision, clock)
    repaired = repair(request, subject, decision, pruned, clock)
    with clock("check"):
        check_model(repaired, like=subject.graph)
    return Made(repaired, proof, _plan(request, subject, decision, pruned, proof))


def write(request: PruneRequest, subject: Subject, made: Made, clock: Clock) -> tuple[Path, ...]:
    """Write model and plan, both or none; return the files."""
    with clock("write"):
        return save(
            made.graph, request.target, overwrite=request.overwrite, original=subject.path,
            beside={request.plan_target: to_json(made.plan).encode()},
        )  # fmt: skip


def deciding(request: PruneRequest) -> Callable[..., Decision]:
    """Return what decides: a search where there is one, or rounds, else a single choice."""
    if request.max_drop is not None:
        return guarded
    if is_iterative(request):
        return in_rounds
    if request.latency is not None:
        return timed
    return jointly if request.joint else decide


def _cut(
    request: PruneRequest, subject: Subject, decision: Decision, clock: Clock
) -> tuple[Graph, Proof | None]:
    """Remove what was decided and prove that nothing else changed."""
    depth, pruned = subject.depth, subject.graph
    if depth is None or decision.mask.removed.any():
        with clock("cut"):
            pruned = SURGERIES["channels"](decision.mask)
    if not request.verify:
        return pruned, None
    batches = []
    if (samples := subject.calibration) is not None:
        batch = samples.read(0, samples.batch or min(_PROVED_ON, samples.count))
        batches = [{name: batch[name] for name in subject.feeds}]
    with clock("prove"):
        steps = [prove(subject.source, depth, subject.graph, batches)] if depth is not None else []
        if pruned is not subject.graph:
            steps.append(prove(subject.graph, decision.mask, pruned, batches))
    return pruned, worst(steps)


def _compare(
    request: PruneRequest, subject: Subject, decision: Decision, repaired: Graph, clock: Clock
) -> tuple[Evaluation | None, Latency | None]:
    """Load the result again; compare both models on samples that no step has seen; time them.

    Two models that are too large for a message are not held in memory side by side.
    """
    with clock("check"):
        if weight_bytes(subject.graph) > INLINE_LIMIT:
            if request.verify:
                Session(repaired, optimise=False, provider=request.provider)
            return None, None
        try:
            before = Session(subject.path, provider=request.provider)
        except UnknownOperatorError as error:
            if request.verify:
                raise
            log.warning("neither compared nor timed: %s", error)
            return None, None
        after = Session(repaired, provider=request.provider)
        if undrawn := [name for name in before.inputs if name not in subject.feeds]:
            log.warning("neither compared nor timed: input '%s' cannot be drawn", undrawn[0])
            return None, None
    evaluation, interface = None, interface_of(decision.mask)
    if subject.held_out is not None:
        with clock("compare"):
            evaluation = evaluate(
                after,
                subject.held_out,
                labels=request.labels,
                reference=before,
                interface=interface,
                progress=request.progress,
            )
    with clock("latency"):
        feeds = interface.admissible(subject.feeds)
        return evaluation, latency.compare(
            before, after, feeds, feeds_after=interface.feeds(feeds), progress=request.progress
        )


def _figures(subject: Subject, decision: Decision) -> dict[str, Change]:
    """Return MACs, parameters, bytes and removable units before and after, from the mask alone."""
    whole, cost, mask = subject.whole, subject.cost, decision.mask
    full, left = whole.lengths(), cost.lengths(mask.removed)
    units = sum(len(group) for group in whole.analysis.groups)
    gone = removed_units(mask)
    kept = sum(int((~gone[group.units]).sum()) for group in subject.analysis.groups)
    return {
        "macs": Change(whole.macs(full), cost.macs(left)),
        "params": Change(whole.params(full), cost.params(left)),
        "bytes": Change(whole.size(full), cost.size(left)),
        "units": Change(units, kept),
    }


def _plan(
    request: PruneRequest,
    subject: Subject,
    decision: Decision,
    pruned: Graph | None = None,
    proof: Proof | None = None,
) -> Plan:
    samples, (name, used) = subject.calibration, decision.repair
    settings = (
        {"ridge": request.ridge, "rows": request.rows, **settings_of(used)}
        if name != "none"
        else {}
    )
    return plan_of(
        decision.mask,
        model=ModelId(subject.path.name, digest(subject.path)),
        criterion=decision.criterion,
        selection=decision.selection,
        repair=Step(name, settings),
        data=None if samples is None else DataId(samples.digest, samples.count, samples.random),
        seed=request.seed,
        scores=decision.scores,
        figures=_figures(subject, decision),
        pruned=pruned,
        proof=None if proof is None else vars(proof),
        depth=subject.depth,
        chosen=subject.chosen,
    )


def _report(
    request: PruneRequest,
    subject: Subject,
    decision: Decision,
    clock: Clock,
    files: list[Path] | None = None,
    proof: Proof | None = None,
    evaluation: Evaluation | None = None,
    times: Latency | None = None,
) -> PruneReport:
    figures = _figures(subject, decision)
    if files:  # what the files really take, not what was foreseen
        figures["bytes"] = Change(subject.size, sum(file.stat().st_size for file in files))
    samples = (subject.calibration, subject.held_out)
    return PruneReport(
        model=subject.path,
        output=request.target if files else None,
        plan=request.plan_target,
        asked=_asked(request, decision),
        criterion=decision.criterion.name,
        repair=decision.repair[0],
        inputs={name: array.shape for name, array in subject.feeds.items()},
        calibration=samples[0].count if samples[0] else 0,
        held_out=samples[1].count if samples[1] else 0,
        figures=figures,
        blocks=tuple(b.name for b in subject.depth.blocks) if subject.depth else (),
        depth=subject.chosen,
        widths=widths_of(decision.mask),
        interface=faces_of(decision.mask),
        proof=proof,
        evaluation=evaluation,
        latency=times,
        search=decision.search,
        quantised=None,
        seconds=clock.seconds,
        notes=(
            *decision.notes,
            *_unrepaired(subject, decision),
            *_notes(request, subject, evaluation, times),
            *(samples[0].notes if samples[0] else ()),
        ),
    )


def _asked(request: PruneRequest, decision: Decision) -> str:
    budget = str(decision.selection.get("budget", ""))
    return budget if request.plan is None else f"plan '{Path(request.plan).name}' ({budget})"


def _unrepaired(subject: Subject, decision: Decision) -> Iterator[str]:
    """Say which weights a repair leaves alone, where there are any."""
    graph, records = subject.analysis.graph, subject.analysis.records
    integers = quantised_weights(graph, records).keys() & graph.weights.keys()
    if decision.repair[0] != "none" and integers:
        yield "quantised operators are not repaired: their weights stay on their own steps"


def _notes(
    request: PruneRequest,
    subject: Subject,
    evaluation: Evaluation | None,
    times: Latency | None,
) -> Iterator[str]:
    """Say what the figures alone do not make plain."""
    if not request.dry_run and times is None:
        yield (
            f"the model is large ({weight_bytes(subject.graph) / 1e9:.1f} GB): both files were not "
            f"timed{'' if request.verify else ', and the new one was not loaded'}"
        )
    if times is not None and times.provider != request.provider:
        yield f"{request.provider} does not run here, {times.provider} did: see `onnxprune doctor`"
    if times is not None and times.widened:
        yield (
            f"{times.provider} has no bfloat16: both files ran, and were timed, in float32; the new one "
            "is bfloat16 as the original is"
        )
    agreement = None if evaluation is None else evaluation.agreement
    if agreement is not None and agreement < _USEFUL:
        yield (
            "most answers on held-out samples differ from the original's: "
            "ask for less, or train the pruned model again"
        )
