"""What is timed: models, inputs and settings, written as a folder that `runner.py` works through."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto

from ..core.contracts import Samples, concatenate
from ..core.errors import DataError, ModelError, OnnxPruneError
from ..core.graph import Array, Graph
from ..core.interface import read_interface
from ..files.store import load
from ..pipeline.samples import Data, open_samples
from ..proof.example import example
from . import runner

_LEAST, _MOST = 5, 5000  # rounds of a life


@dataclasses.dataclass(frozen=True)
class BenchRequest:
    """One comparison, as asked for.

    Attributes:
        models: ONNX files with the same inputs; the others are compared with the first.
        data: sample inputs, as in `prune`; None: drawn.
        preprocess: of images, as in `prune`.
        batches: numbers of samples in a run.
        threads: numbers of intra-op threads; 0: onnxruntime's own choice.
        provider: full name of the execution provider.
        fallback: whether the CPU may run instead of it.
        seconds: how long each cell (a batch size with a number of threads) is timed.
        lives: how many times the models are loaded anew for it.
        confidence: of the intervals.
        profile: whether to look at single nodes.
    """

    models: tuple[Path, ...]
    data: Data | None = None
    preprocess: str | None = None
    batches: tuple[int, ...] = (1,)
    threads: tuple[int, ...] = (0,)
    provider: str = "CPUExecutionProvider"
    fallback: bool = False
    seconds: float = 4.0
    lives: int = 8
    confidence: float = 0.99
    profile: bool = True

    def __post_init__(self) -> None:
        """Refuse what makes no sense, before any work.

        Raises:
            OnnxPruneError: for a number out of its range.
        """
        for name, given, least in (("batch", self.batches, 1), ("threads", self.threads, 0)):
            if not given or min(given) < least:
                raise OnnxPruneError(f"--{name}: expected numbers of at least {least}")
        if self.lives < 2:
            raise OnnxPruneError(f"--lives {self.lives}: expected at least 2, else nothing is sure")
        if not self.seconds > 0:
            raise OnnxPruneError(f"--seconds {self.seconds}: expected more than 0")
        if not 0.5 <= self.confidence < 1:
            raise OnnxPruneError(f"--confidence {self.confidence}: expected from 0.5 to below 1")

    @property
    def cells(self) -> list[tuple[int, int]]:
        """Pairs of batch size and threads."""
        return [(batch, threads) for batch in self.batches for threads in self.threads]


@dataclasses.dataclass(frozen=True)
class Subject:
    """One model to be timed.

    Attributes:
        path: of the file.
        graph: as read.
        files: its own, and those its weights are in.
        feeds: inputs of one run at the first batch size.
    """

    path: Path
    graph: Graph
    files: tuple[Path, ...]
    feeds: dict[str, Array]


def numbers(name: str, value: Sequence[int] | str) -> tuple[int, ...]:
    """Read numbers, also from text such as "1,8".

    Raises:
        OnnxPruneError: if there is anything else in it.
    """
    parts = value.split(",") if isinstance(value, str) else value
    try:
        return tuple(map(int, parts))
    except ValueError as error:
        raise OnnxPruneError(f"--{name} {value}: expected whole numbers such as 1,8") from error


def write_job(request: BenchRequest, folder: Path, *, copy: bool = False) -> list[Subject]:
    """Write the folder that the runner works through.

    Args:
        request: what is asked.
        folder: exists and is empty.
        copy: whether models are copied, to be taken elsewhere; else they are read where they are.

    Raises:
        ModelError: if a model cannot be read.
        DataError: if models differ in their inputs, or samples do not fit.
    """
    graphs = [load(path) for path in request.models]
    fed = {batch: _feeds(request, graphs, batch) for batch in sorted(set(request.batches))}
    (folder / "feeds").mkdir()
    for batch, each in fed.items():
        for number, feeds in enumerate(each):
            np.savez(folder / "feeds" / f"{batch}-{number}.npz", **feeds)  # type: ignore[arg-type]  # a stub of NumPy's
    files = [
        _copied(path, graph, folder, f"models/{number}") if copy else str(path.resolve())
        for number, (path, graph) in enumerate(zip(request.models, graphs, strict=True))
    ]
    job = {
        "models": [{"name": p.name, "file": f} for p, f in zip(request.models, files, strict=True)],
        "cells": [
            {
                "batch": b,
                "threads": t,
                "models": list(range(len(graphs))),
                "feeds": [f"feeds/{b}-{n}.npz" for n in range(len(graphs))],
            }
            for b, t in request.cells
        ],
        "provider": request.provider,
        "fallback": request.fallback,
        "seconds": request.seconds / request.lives,
        "lives": request.lives,
        "least": _LEAST,
        "most": _MOST,
        "profile": request.profile,
        "alone": True,
    }
    (folder / "job.json").write_text(json.dumps(job, indent=1))
    put_runner(folder)
    first = fed[request.batches[0]]
    return [
        Subject(path, graph, (path, *(file for file, _ in _beside(path, graph))), feeds)
        for path, graph, feeds in zip(request.models, graphs, first, strict=True)
    ]


def put_runner(folder: Path) -> None:
    """Put what does a job beside it, as `run.py`."""
    shutil.copyfile(runner.__file__, folder / "run.py")


def _feeds(request: BenchRequest, graphs: Sequence[Graph], batch: int) -> list[dict[str, Array]]:
    """Return the inputs of each model at one batch size: the same samples, as each counts them."""
    first = graphs[0]
    samples = _samples(request, first, batch)
    _check_batch(request.models[0], first, batch)
    feeds = example(first, samples) if batch == 1 else _batch(first, samples, batch)
    names = {value.name for value in first.inputs}
    result = []
    for path, graph in zip(request.models, graphs, strict=True):
        if (theirs := {value.name for value in graph.inputs}) != names:
            raise DataError(
                f"'{path}' reads {sorted(theirs)}, '{request.models[0]}' reads {sorted(names)}: "
                "only models with the same inputs can be compared"
            )
        _check_batch(path, graph, batch)
        counted_anew = read_interface(graph)
        result.append(counted_anew.feeds(counted_anew.admissible(feeds)))
    return result


def _samples(request: BenchRequest, graph: Graph, batch: int) -> Samples | None:
    if request.data is None:
        return None
    return open_samples(request.data, graph, limit=batch, preprocess=request.preprocess)


def _check_batch(path: Path, graph: Graph, batch: int) -> None:
    """Refuse a batch size that a model does not take; 1 stands for whatever it takes.

    Raises:
        ModelError: naming the input.
    """
    for value in graph.inputs if batch > 1 else ():
        axes = value.type.tensor_type.shape.dim
        if not axes or (axes[0].HasField("dim_value") and axes[0].dim_value != batch):
            raise ModelError(
                f"--batch {batch}: input '{value.name}' of '{path}' has no free first axis; "
                "export the model with a dynamic batch, or leave --batch out"
            )


def _batch(graph: Graph, samples: Samples | None, batch: int) -> dict[str, Array]:
    """Return a batch, samples repeated where there are too few."""
    one = example(graph, samples)
    each = [one] if samples is None else list(samples.batches(batch))
    rows = concatenate(each)
    count = len(next(iter(rows.values())))
    picked = np.arange(batch) % count
    return {value.name: rows[value.name][picked] for value in graph.inputs}


def _copied(path: Path, graph: Graph, folder: Path, place: str) -> str:
    """Copy a model, with the files its weights are in; returns where it is within the folder."""
    for source, name in ((path, path.name), *_beside(path, graph)):
        target = folder / place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return f"{place}/{path.name}"


def _beside(path: Path, graph: Graph) -> list[tuple[Path, str]]:
    """Return the files of external weights; `load` has made sure that they lie below the model."""
    names = {
        entry.value
        for weight in graph.weights.values()
        if weight.proto.data_location == TensorProto.EXTERNAL
        for entry in weight.proto.external_data
        if entry.key == "location"
    }
    return [(path.parent / name, name) for name in sorted(names)]
