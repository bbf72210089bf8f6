"""Cut copies of a model, timed beside it on the target, kernel by kernel."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..core.analysis import Analysis, Mask
from ..core.contracts import SURGERIES
from ..core.cost import CostModel
from ..core.graph import Array, Graph
from ..core.interface import interface_of
from ..core.samples import Progress, silent
from ..files.store import save
from ..selection.budget import Options
from ..selection.widths import allowed_widths
from ..timing.job import put_runner
from ..timing.result import Result, read_result
from ..timing.run import macs_by_name
from ..timing.target import Target, run_here, run_there
from ..timing.why import Profiled
from .model import Observed

_LEAST, _MOST = 5, 2000  # rounds of a life
_LIVES = 2


@dataclasses.dataclass(frozen=True)
class Setting:
    """How and where copies are timed.

    Attributes:
        provider: full name of the execution provider.
        threads: intra-op threads; 0: onnxruntime's choice.
        seconds: for each copy.
        target: another machine; None: here.
    """

    provider: str = "CPUExecutionProvider"
    threads: int = 0
    seconds: float = 0.6
    target: Target | None = None


@dataclasses.dataclass(frozen=True)
class Copy:
    """A model to be timed, and the inputs of one run."""

    graph: Graph
    feeds: dict[str, Array]

    @classmethod
    def of(cls, mask: Mask, graph: Graph, feeds: dict[str, Array]) -> Copy:
        """Take a cut model, and turn inputs of the original into its own."""
        interface = interface_of(mask)
        return cls(graph, interface.feeds(interface.admissible(feeds)))


def drawn(analysis: Analysis, options: Options, count: int, seed: int = 0) -> list[Mask]:
    """Draw masks over the widths that a selection may choose, from hardly cut to the floors.

    Each mask has a depth of its own, about which its groups vary: selections look like that.
    """
    rng = np.random.default_rng(seed)
    widths = allowed_widths(analysis, options)
    found = []
    for depth in (np.arange(count) + 0.5) / count:
        units = [np.empty(0, np.int64)]
        for group, allowed in zip(analysis.groups, widths, strict=True):
            level = np.clip(depth + 0.25 * rng.standard_normal(), 0, 1) * (len(allowed) - 1)
            units.append(group.units[: len(group) - int(allowed[round(level)])])
        found.append(_whole(analysis.mask(np.concatenate(units))))
    return found


def _whole(mask: Mask) -> Mask:
    """Return the mask, or none of it where groups together would empty an axis."""
    return mask.analysis.mask(np.empty(0, np.int64)) if mask.emptied() else mask


def observed(
    original: Graph,
    cost: CostModel,
    feeds: dict[str, Array],
    masks: Sequence[Mask],
    setting: Setting,
    progress: Progress = silent,
) -> tuple[list[Observed], float]:
    """Time cut copies, each in turns with the original, and look at their kernels.

    Returns:
        What was observed, the original first; and the milliseconds of one run of the original.

    Raises:
        OnnxPruneError: if the provider does not run, or another machine fails.
    """
    cut = [Copy.of(mask, SURGERIES["channels"](mask), feeds) for mask in masks]
    result = _run([Copy(original, feeds), *cut], setting, progress, profile=True)
    lengths = [cost.lengths(), *(cost.lengths(mask.removed) for mask in masks)]
    ratios, milliseconds = _ratios(result)
    macs = macs_by_name(cost)
    kernels = [
        _shares(Profiled(graph, macs, times), ratio)
        for graph, times, ratio in zip(
            [original, *(copy.graph for copy in cut)], result.profiles, ratios, strict=True
        )
    ]
    found = [Observed(*all_of) for all_of in zip(lengths, ratios, kernels, strict=True)]
    return found, milliseconds


def raced(
    original: Copy, other: Copy, setting: Setting, progress: Progress = silent
) -> tuple[float, float]:
    """Time a model in turns with the original.

    Returns:
        Its time as a share of the original's, and the milliseconds of one run of the original.

    Raises:
        OnnxPruneError: if the provider does not run, or another machine fails.
    """
    (_, ratio), milliseconds = _ratios(_run([original, other], setting, progress, profile=False))
    return ratio, milliseconds


def _run(copies: Sequence[Copy], setting: Setting, progress: Progress, *, profile: bool) -> Result:
    """Time all but the first in turns with the first."""
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as name:
        folder = Path(name)
        names = _write(folder, copies, setting, profile=profile)
        if setting.target is None:
            text = run_here(folder, progress)
        else:
            text = run_there(setting.target, folder, progress)
    return read_result(text, names)


def _write(folder: Path, copies: Sequence[Copy], setting: Setting, *, profile: bool) -> list[str]:
    """Write the job: every copy in a cell with the first; returns the names of the files."""
    for number, copy in enumerate(copies):
        save(copy.graph, folder / f"{number}.onnx")
        np.savez(folder / f"{number}.npz", **copy.feeds)  # type: ignore[arg-type]  # a stub of NumPy's
    names = [f"{number}.onnx" for number in range(len(copies))]
    job = {
        "models": [{"name": name, "file": name} for name in names],
        "cells": [
            {
                "models": [0, n], "feeds": ["0.npz", f"{n}.npz"], "threads": setting.threads,
                "batch": 1,
            }
            for n in range(1, len(names))
        ],
        "provider": setting.provider, "fallback": False, "lives": _LIVES,
        "seconds": setting.seconds / _LIVES, "least": _LEAST, "most": _MOST, "profile": profile,
        "alone": False,
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job))
    put_runner(folder)
    return names


def _ratios(result: Result) -> tuple[list[float], float]:
    """Return each copy's time as a share of the original's, that of the original first."""
    ratios, originals = [1.0], []
    for cell in result.cells:
        rounds = np.array([row for life in cell.times for row in life])
        ratios.append(float(np.median(rounds[:, 1] / rounds[:, 0])))
        originals.append(float(np.median(rounds[:, 0])))
    return ratios, float(np.median(originals))


def _shares(profile: Profiled, ratio: float) -> dict[str, float]:
    """Divide a model's time among its kernels, as its profile does."""
    kernels = profile.kernels()
    total = sum(kernel.us for kernel in kernels.values())
    return {name: ratio * kernel.us / total for name, kernel in kernels.items()}
