"""Times models and judges the times: see `bench`."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import TypeAdapter

from ..core.cost import CostModel
from ..core.errors import OnnxPruneError
from ..core.samples import Progress, silent
from ..plan.document import STRICT, read_document
from ..proof.example import instance_of
from ..structure.dependency import analyse
from .job import BenchRequest, Subject, write_job
from .judge import Timed, judged
from .result import Machine, Result, read_result
from .target import Target, run_here, run_there, write_bundle
from .why import Finding, Profiled, by_kind, by_node, findings

FORMAT = 1
_FEWER = 0.9  # share of the MACs from which less time is expected
_FALLS = 1.5  # fewer MACs over less time from which it is worth a word


@dataclasses.dataclass(frozen=True)
class Model:
    """What is known of one model apart from its times.

    Attributes:
        path: of the file.
        macs: multiply-accumulates of one run of the first batch size.
        params: parameters.
        bytes: of the file and its external weights.
        load: milliseconds to load it in a fresh process.
        memory: bytes that loading and running it takes there; None where the system does not say.
        findings: why it is not as fast as its work is small; empty for the first model.
    """

    path: Path
    macs: float
    params: float
    bytes: int
    load: float
    memory: int | None
    findings: tuple[Finding, ...]


@dataclasses.dataclass(frozen=True)
class CellReport:
    """All models at one batch size and number of threads; the others are compared with the first."""

    batch: int
    threads: int
    models: tuple[Timed, ...]


@dataclasses.dataclass(frozen=True)
class BenchReport:
    """What a comparison found.

    Attributes:
        models: as given.
        cells: one per batch size and number of threads.
        provider: that really ran.
        machine: where.
        confidence: of the intervals.
        kernels: microseconds per run by kind of kernel, one for each model; empty without profile.
        nodes: the same by node of the file that the kernel stands for; 0 where a model has none.
        notes: what the user should know.
    """

    __pydantic_config__ = STRICT

    models: tuple[Model, ...]
    cells: tuple[CellReport, ...]
    provider: str
    machine: Machine
    confidence: float
    kernels: dict[str, list[float]]
    nodes: dict[str, list[float]]
    notes: tuple[str, ...]
    kind: Literal["bench"] = "bench"
    format: int = FORMAT


def bench(
    request: BenchRequest,
    *,
    target: Path | None = None,
    result: Path | None = None,
    progress: Progress = silent,
) -> BenchReport:
    """Time models in turns.

    Args:
        request: what is asked.
        target: TOML file of another machine to do it on.
        result: what a bundle brought back: nothing is timed.
        progress: called as work goes on.

    Raises:
        ModelError: if a model cannot be read.
        DataError: if the models differ in their inputs, or samples do not fit.
        OnnxPruneError: if the provider does not run, or another machine fails.
    """
    names = [path.name for path in request.models]
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as name:
        folder = Path(name)
        elsewhere = None if target is None else Target.read(target)
        subjects = write_job(request, folder, copy=elsewhere is not None)
        if result is not None:
            try:
                text = result.read_bytes()
            except OSError as error:
                raise OnnxPruneError(f"cannot read '{result}': {error.strerror}") from error
        elif elsewhere is not None:
            text = run_there(elsewhere, folder, progress)
        else:
            text = run_here(folder, progress)
    return _report(request, subjects, read_result(text, names))


def bundle(request: BenchRequest, path: Path) -> Path:
    """Write a zip file that times the models wherever Python, NumPy and onnxruntime are.

    Raises:
        ModelError: if a model cannot be read.
        DataError: if the models differ in their inputs, or samples do not fit.
    """
    if not path.parent.is_dir():
        raise OnnxPruneError(f"cannot write '{path}': there is no folder '{path.parent}'")
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as name:
        write_job(request, Path(name), copy=True)
        write_bundle(Path(name), path)
    return path


def _report(request: BenchRequest, subjects: list[Subject], found: Result) -> BenchReport:
    costs = [_cost(subject) for subject in subjects]
    profiles = [
        Profiled(subject.graph, macs_by_name(cost), times)
        for subject, cost, times in zip(
            subjects, costs, found.profiles or [[]] * len(subjects), strict=True
        )
    ]
    cells = tuple(
        CellReport(
            asked.batch,
            asked.threads,
            tuple(judged([np.array(life) for life in cell.times], request.confidence)),
        )
        for asked, cell in zip(found.job.cells, found.cells, strict=True)
    )
    models = tuple(
        Model(
            path=subject.path,
            macs=cost.macs(cost.full),
            params=cost.params(cost.full),
            bytes=sum(file.stat().st_size for file in subject.files),
            load=alone.load,
            memory=alone.memory,
            findings=tuple(findings(profiles[0], profile)) if profile.times and number else (),
        )
        for number, (subject, cost, alone, profile) in enumerate(
            zip(subjects, costs, found.models, profiles, strict=True)
        )
    )
    return BenchReport(
        models=models,
        cells=cells,
        provider=found.cells[0].provider,
        machine=found.machine,
        confidence=request.confidence,
        kernels=by_kind(profiles) if all(p.times for p in profiles) else {},
        nodes=by_node(profiles) if all(p.times for p in profiles) else {},
        notes=_notes(request, models, cells, found),
    )


def _cost(subject: Subject) -> CostModel:
    analysis = analyse(subject.graph)
    return CostModel(analysis, instance_of(analysis.graph, subject.feeds))


def macs_by_name(cost: CostModel) -> dict[str, float]:
    """Return multiply-accumulates of one run by the name of the node (or what it makes)."""
    nodes = cost.analysis.graph.nodes
    each = cost.macs_by_node(cost.full)
    return {nodes[number].name or nodes[number].output[0]: macs for number, macs in each.items()}


def _notes(
    request: BenchRequest, models: tuple[Model, ...], cells: tuple[CellReport, ...], found: Result
) -> tuple[str, ...]:
    """Say where time does not follow the work, and where the provider asked for did not run."""
    notes = []
    if found.cells[0].provider != request.provider:
        notes.append(f"{request.provider} does not run here, {found.cells[0].provider} did")
    for number, model in enumerate(models[1:], 1):
        share = model.macs / models[0].macs if models[0].macs else 1.0
        ratio = cells[0].models[number].ratio
        if share < _FEWER and 1 / share / ratio > _FALLS:
            notes.append(
                f"'{model.path.name}' has {1 / share:.2f}x fewer MACs but is {ratio:.2f}x as fast"
            )
    return tuple(notes)


_BENCH = TypeAdapter(BenchReport)


def read_bench(path: Path | str) -> BenchReport:
    """Read what `bench -o` wrote.

    Raises:
        OnnxPruneError: in one line, if it is missing, something else, or of another format.
    """
    return read_document(path, _BENCH, "bench", FORMAT)
