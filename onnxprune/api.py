"""The Python face: the same steps and the same names of options as the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec

from . import pipeline
from .budget import Options
from .core.analysis import CostModel
from .core.contracts import Progress, silent
from .core.errors import OnnxPruneError
from .core.runtime import Session
from .dependency import analyse
from .evaluate import Evaluation
from .evaluate import evaluate as measure
from .example import example, instance_of
from .files import load
from .overview import Overview, overview
from .providers import provider_named
from .recheck import verify
from .report import PruneReport
from .request import PruneRequest
from .samples import Data, open_samples

__all__ = ["evaluate", "inspect", "prune", "verify"]

P = ParamSpec("P")


def _carried_out(make: Callable[P, PruneRequest]) -> Callable[P, PruneReport]:
    """Return a function with the parameters of `PruneRequest`, so that they are listed once."""

    def prune(*args: P.args, **kwargs: P.kwargs) -> PruneReport:
        return pipeline.prune(make(*args, **kwargs))

    asked = (make.__doc__ or "").split("Attributes:")[-1].rstrip()
    prune.__doc__ = (
        'Prune a model: `prune("in.onnx", "out.onnx", data={"images": array}, macs=0.5)`.\n\n'
        f"    Args:{asked}\n\n    Raises:\n"
        "        OnnxPruneError: whatever the caller can mend, in one line; then nothing was written.\n"
    )
    prune.__signature__ = signature(make)  # type: ignore[attr-defined]  # what help() and editors show
    return prune


prune = _carried_out(PruneRequest)


def inspect(
    model: Path | str,
    *,
    keep: tuple[str, ...] = (),
    floor: float = Options.floor,
    round_to: int = Options.round_to,
) -> Overview:
    """Say what can be removed from a model, what cannot and why, and the least reachable size.

    Args:
        model: the ONNX file.
        keep: groups or weights that stay whole, as in `prune`.
        floor: least share of every group's units that stays.
        round_to: kept channels are a multiple of this, or all.

    Raises:
        ModelError: if the file cannot be read.
    """
    graph = load(model)
    analysis, feeds = analyse(graph), example(graph)
    cost = CostModel(analysis, instance_of(analysis.graph, feeds))
    options = Options(keep=tuple(keep), floor=floor, round_to=round_to)
    return overview(Path(model), analysis, cost, feeds, options)


def evaluate(
    model: Path | str,
    data: Data,
    *,
    labels: str | None = None,
    reference: Path | str | None = None,
    preprocess: str | Mapping[str, Any] | None = None,
    samples: int | None = None,
    seed: int = 0,
    provider: str = "cpu",
    progress: Progress = silent,
) -> Evaluation:
    """Measure a model on samples: accuracy with labels, agreement and error against a reference.

    Args:
        model: the ONNX file.
        data: sample inputs, as in `prune`.
        labels: key of the labels.
        reference: an ONNX file with the same inputs and outputs.
        preprocess: image preprocessing, as in `prune`.
        samples: use at most so many.
        seed: of random data.
        provider: onnxruntime execution provider.
        progress: called after each batch.

    Raises:
        DataError: if the data does not fit the model.
        OnnxPruneError: if neither labels nor reference are given.
    """
    if labels is None and reference is None:
        raise OnnxPruneError(
            "nothing to compare with: give --labels KEY, --reference MODEL, or both"
        )
    graph = load(model)
    opened = open_samples(data, graph, limit=samples, seed=seed, preprocess=preprocess)
    runs_on = provider_named(provider)
    session = Session(Path(model), provider=runs_on)
    other = None if reference is None else Session(Path(reference), provider=runs_on)
    return measure(session, opened, labels=labels, reference=other, progress=progress)
