"""Checks a pruned file against its plan: today, after retraining, or exported anew by somebody else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ..core.contracts import SURGERIES
from ..core.errors import OnnxPruneError, ProofError
from ..core.graph import Graph
from ..core.runtime import Session
from ..files.store import digest, load
from ..proof.example import example
from ..proof.prove import Proof, check_model, prove, worst
from ..structure.dependency import analyse
from .file import Plan, read_plan
from .reapply import depth_of, mask_of, verify_plan


@dataclasses.dataclass(frozen=True)
class Verification:
    """What was found about a pruned file.

    Attributes:
        model: the file.
        plan: what it should look like.
        weights: how many weights have the planned shape: all, or `verify` would have raised.
        proof: comparison with the masked original; None without the original, or when the weights
            were repaired or retrained and only the structure can be compared.
        notes: what the user should know.
    """

    model: Path
    plan: Path
    weights: int
    proof: Proof | None = None
    notes: tuple[str, ...] = ()


def verify(
    model: Path | str, plan: Path | str, *, original: Path | str | None = None
) -> Verification:
    """Check that a file has the planned structure, is valid and runs; with the original also its values.

    Args:
        model: the pruned file.
        plan: the plan file.
        original: the file that was pruned. The proof is made again if the plan names no repair.

    Raises:
        ProofError: naming the first weight, or tensor, that differs.
        OnnxPruneError: if a file cannot be read.
    """
    path, decided, graph = Path(model), read_plan(plan), load(model)
    if problems := verify_plan(graph, decided):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ProofError(f"'{path}' does not have the planned structure: {problems[0]}{more}")
    check_model(graph)
    Session(path).run(example(graph))
    found = Verification(path, Path(plan), len(decided.tensors))
    if original is None:
        return dataclasses.replace(found, notes=("give --original to compare values too",))
    return _against(found, decided, graph, Path(original))


def _against(found: Verification, plan: Plan, graph: Graph, original: Path) -> Verification:
    """Make the proof again, if the weights are still those of the original."""
    source = load(original)
    if digest(original) != plan.model.sha256:
        raise OnnxPruneError(
            f"'{original}' is not the file the plan was made for ('{plan.model.name}')"
        )
    depth = depth_of(analyse(source, plan.unlocked), plan)
    shallow = SURGERIES["blocks"](depth) if plan.blocks else source
    mask = mask_of(analyse(shallow, plan.unlocked) if plan.blocks else depth.analysis, plan)
    if plan.repair is not None and plan.repair.name != "none":
        note = f"weights were repaired ('{plan.repair.name}'): only the structure can be compared"
        return dataclasses.replace(found, notes=(note,))
    steps = [prove(shallow, mask, graph)]
    if plan.blocks:  # in two steps, of which this is the first
        steps.insert(0, prove(source, depth, shallow))
    return dataclasses.replace(found, proof=worst(steps))
