"""Refits what is left after a cut."""

from __future__ import annotations

from ..core.contracts import RepairTask
from ..core.graph import Graph
from ..core.threads import blas_threads
from ..measure.clock import Clock
from .decide import Decision
from .request import PruneRequest
from .study import Subject


def repair(
    request: PruneRequest, subject: Subject, decision: Decision, pruned: Graph, clock: Clock
) -> Graph:
    """Return the pruned graph with refitted weights, as the decision's repair makes them."""
    if decision.repaired is not None:
        return decision.repaired
    task = RepairTask(
        decision.mask,
        pruned,
        decision.evidence,
        subject.calibration,
        request.ridge,
        request.rows,
        request.progress,
        original=subject.whole.analysis.graph,
    )
    with clock("repair"), blas_threads(subject.analysis):
        return decision.repair[1].apply(task)
