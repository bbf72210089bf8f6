"""What a prune did, as data: for the table, for `--json`, for Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..core.analysis import Mask
from ..measure.drop import Search
from ..measure.evaluate import Evaluation
from ..measure.latency import Latency
from ..measure.quantised import Quantised
from ..plan import Change, PlannedDepth, PlannedFace, removed_units
from ..proof.prove import Proof


@dataclasses.dataclass(frozen=True)
class Width:
    """One group, before and after.

    Attributes:
        name: the first weight that writes its channels.
        units: removable units.
        channels: length of that weight's axis.
    """

    name: str
    units: Change
    channels: Change


@dataclasses.dataclass(frozen=True)
class PruneReport:
    """The result of a prune.

    Attributes:
        model: the input file.
        output: the pruned file; None in a dry run.
        plan: the plan file.
        asked: the budget.
        criterion, repair: what was used.
        inputs: shapes of the run that MACs and latency are counted at.
        calibration, held_out: numbers of samples.
        figures: "macs" of that run, "params", "bytes" of the files, "units" that can be removed.
        blocks: that were left out whole, before channels were chosen.
        depth: how a score chose them; None: by name, or none.
        widths: per group, of what remains without those.
        interface: what callers must feed or read anew; empty if nothing was unlocked and shrank.
        proof: None when it was not made.
        evaluation: the pruned model on held-out samples, against the original; None without samples.
        latency: of both files, measured in turns; None in a dry run.
        search: all trials of `--max-drop`; None where a budget was given.
        quantised: the file in int8; None where that was not asked for.
        seconds: what each step took.
        notes: what the user should know.
    """

    model: Path
    output: Path | None
    plan: Path
    asked: str
    criterion: str
    repair: str
    inputs: dict[str, tuple[int, ...]]
    calibration: int
    held_out: int
    figures: dict[str, Change]
    blocks: tuple[str, ...]
    depth: PlannedDepth | None
    widths: tuple[Width, ...]
    interface: tuple[PlannedFace, ...]
    proof: Proof | None
    evaluation: Evaluation | None
    latency: Latency | None
    search: Search | None
    quantised: Quantised | None
    seconds: dict[str, float]
    notes: tuple[str, ...]


def widths_of(mask: Mask) -> tuple[Width, ...]:
    """Return what a mask leaves of each group."""
    gone, origin = removed_units(mask), mask.analysis.graph.origin
    found = []
    for group in mask.analysis.groups:
        first = group.members[0]
        lost = mask.gone_at(first.tensor, first.axis)
        kept = group.width - (0 if lost is None else int(lost.sum()))
        units = Change(len(group), len(group) - int(gone[group.units].sum()))
        found.append(Width(origin.get(group.name, group.name), units, Change(group.width, kept)))
    return tuple(found)


def plain(value: Any) -> Any:
    """Return a report as JSON values: dataclasses as objects, paths as text, no infinities."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
