"""The Python face: the same steps and the same names of options as the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from .core.contracts import Progress, silent
from .core.cost import CostModel
from .core.errors import OnnxPruneError
from .core.graph import Graph
from .core.interface import Interface, read_interface
from .core.runtime import Session
from .files.store import load
from .measure.drop import hold, limit_of
from .measure.evaluate import Evaluation
from .measure.evaluate import evaluate as measure
from .pipeline import run as pipeline
from .pipeline import score as scoring
from .pipeline import sparse as zeros
from .pipeline import sweep as sweeping
from .pipeline.request import PruneRequest
from .pipeline.samples import Data, open_samples
from .pipeline.score import ScoreRequest
from .pipeline.sparse import SparsifyRequest
from .plan.recheck import verify
from .proof.example import example, instance_of
from .providers import provider_named
from .selection.budget import Options
from .show.overview import Overview, overview
from .show.page import write_page
from .show.report_page import report
from .structure.dependency import analyse
from .structure.unlock import Positions, unlocks
from .timing import run as benching
from .timing.job import BenchRequest, numbers
from .timing.run import BenchReport

__all__ = [
    "bench",
    "evaluate",
    "inspect",
    "interface",
    "prune",
    "report",
    "score",
    "sparsify",
    "sweep",
    "verify",
]

P = ParamSpec("P")
Request = TypeVar("Request")
Report = TypeVar("Report")


def _carried_out(
    make: Callable[P, Request], run: Callable[[Request], Report], does: str
) -> Callable[P, Report]:
    """Return a function with the parameters of a request, so that they are listed once."""

    def carry_out(*args: P.args, **kwargs: P.kwargs) -> Report:
        return run(make(*args, **kwargs))

    asked = (make.__doc__ or "").split("Attributes:")[-1].rstrip()
    carry_out.__name__ = carry_out.__qualname__ = run.__name__
    carry_out.__doc__ = (
        f"{does}\n\n    Args:{asked}\n\n    Raises:\n"
        "        OnnxPruneError: whatever the caller can mend, in one line; then nothing was written.\n"
    )
    carry_out.__signature__ = signature(make)  # type: ignore[attr-defined]  # what help() and editors show
    return carry_out


prune = _carried_out(
    PruneRequest,
    pipeline.prune,
    'Prune a model: `prune("in.onnx", "out.onnx", data={"images": array}, macs=0.5)`.',
)
sweep = _carried_out(
    PruneRequest,
    sweeping.sweep,
    'Prune under several budgets: `sweep("in.onnx", "folder", data={"images": array}, sweep="0.6,0.4")`.',
)
score = _carried_out(
    ScoreRequest,
    scoring.score,
    'Score all units: `score("in.onnx", data={"images": array}, criterion="cmi,mipp,l1")`.',
)
sparsify = _carried_out(
    SparsifyRequest,
    zeros.sparsify,
    "Set weights to zero, the structure stays: "
    '`sparsify("in.onnx", "out.onnx", data={"images": array}, sparsity="2:4")`.',
)


def inspect(
    model: Path | str,
    *,
    keep: tuple[str, ...] = (),
    floor: float = Options.floor,
    round_to: int = Options.round_to,
    unlock: tuple[str, ...] | str = (),
    keep_rows: Positions | None = None,
    keep_classes: Positions | None = None,
    keep_features: Positions | None = None,
    blocks: bool = False,
    group: tuple[str, ...] | str = (),
    html: Path | str | None = None,
) -> Overview:
    """Say what can be removed from a model, what cannot and why, and the least reachable size.

    Args:
        model: the ONNX file.
        keep: groups or weights that stay whole, as in `prune`.
        floor: least share of every group's units that stays.
        round_to: kept channels are a multiple of this, or all.
        unlock: what may shrink of that which callers of the model see, as in `prune`.
        keep_rows: rows of the vocabulary that stay, as in `prune`.
        keep_classes: positions of the output that stay.
        keep_features: positions of the input that stay.
        blocks: whether to look for whole blocks that can be left out, too.
        group: names or patterns of groups, or of weights in them: `chosen` of the result.
        html: where to write all of it as one self-contained page; blocks are looked for then.

    Raises:
        ModelError: if the file cannot be read.
        OnnxPruneError: if something unlocked does not exist, or stays all the same.
    """
    graph = load(model)
    texts = (unlock,) if isinstance(unlock, str) else unlock
    unlocked = unlocks(texts, rows=keep_rows, classes=keep_classes, features=keep_features)
    analysis = analyse(graph, unlocked)
    feeds = example(analysis.graph)
    cost = CostModel(analysis, instance_of(analysis.graph, feeds))
    options = Options(keep=tuple(keep), floor=floor, round_to=round_to)
    view = overview(Path(model), analysis, cost, feeds, options, blocks=blocks or html is not None)
    if html is not None:
        write_page(view, Path(html))
    return view.choose((group,) if isinstance(group, str) else group)


def interface(model: Path | str) -> Interface:
    """Return how a pruned file counts inputs and outputs anew; empty if nothing was unlocked.

    `interface(...).feeds(batch)` turns what the original is fed into what the pruned model takes,
    `.outputs(...)` takes the same part of the original's outputs.

    Raises:
        ModelError: if the file cannot be read.
    """
    return read_interface(load(model))


def evaluate(
    model: Path | str,
    data: Data,
    *,
    labels: str | None = None,
    reference: Path | str | None = None,
    max_drop: str | float | None = None,
    metric: str | None = None,
    confidence: float = 0.5,
    preprocess: str | Mapping[str, Any] | None = None,
    samples: int | None = None,
    seed: int = 0,
    provider: str = "cpu",
    progress: Progress = silent,
) -> Evaluation:
    """Measure a model on samples: accuracy with labels, agreement and error against a reference.

    Args:
        model: the ONNX file.
        data: sample inputs, as in `prune`; for the original, where inputs were unlocked and shrank.
        labels: key of the labels.
        reference: an ONNX file with the same inputs and outputs.
        max_drop: how much worse than that the model may be, as "1%" or 0.01; None: as it pleases.
        metric: what of: "accuracy", "agreement" or "error"; None: accuracy with labels, else agreement.
        confidence: that other samples of the kind lose no more, too; 0.5: the drop as measured.
        preprocess: image preprocessing, as in `prune`.
        samples: use at most so many.
        seed: of random data.
        provider: onnxruntime execution provider.
        progress: called after each batch.

    Raises:
        DataError: if the data does not fit the model.
        LimitError: if the model is worse than that; `found` of it is the evaluation.
        OnnxPruneError: if neither labels nor reference are given.
    """
    if labels is None and reference is None:
        raise OnnxPruneError(
            "nothing to compare with: give --labels KEY, --reference MODEL, or both"
        )
    limit = limit_of(max_drop, metric, confidence, labels, reference)
    graph = load(model)
    faces = _counted(graph, reference)
    opened = open_samples(
        data, graph, limit=samples, seed=seed, preprocess=preprocess, interface=faces
    )
    runs_on = provider_named(provider)
    session = Session(Path(model), provider=runs_on)
    other = None if reference is None else Session(Path(reference), provider=runs_on)
    found = measure(
        session, opened, labels=labels, reference=other, interface=faces, progress=progress
    )
    if limit is not None:
        hold(found, limit)
    return found


def _counted(graph: Graph, reference: Path | str | None) -> Interface:
    """Return how a model counts its interface anew, as seen from the reference."""
    faces = read_interface(graph)
    if reference is None or not (theirs := read_interface(load(reference))):
        return faces
    if theirs != faces:
        raise OnnxPruneError(f"'{reference}' counts its inputs or outputs anew: give the original")
    return Interface()  # both alike


def bench(
    *models: Path | str,
    data: Data | None = None,
    preprocess: str | None = None,
    batches: Sequence[int] | str = (1,),
    threads: Sequence[int] | str = (0,),
    provider: str = "cpu",
    fallback: bool = False,
    seconds: float = BenchRequest.seconds,
    lives: int = BenchRequest.lives,
    confidence: float = BenchRequest.confidence,
    profile: bool = True,
    target: Path | str | None = None,
    bundle: Path | str | None = None,
    result: Path | str | None = None,
    progress: Progress = silent,
) -> BenchReport | Path:
    """Time models in turns: the others are compared with the first, round by round.

    Args:
        models: ONNX files with the same inputs.
        data: sample inputs, as in `prune`; None: drawn.
        preprocess: image preprocessing, as in `prune`.
        batches: numbers of samples in a run, or text such as "1,8".
        threads: numbers of intra-op threads, or text; 0: onnxruntime's own choice.
        provider: onnxruntime execution provider.
        fallback: whether the CPU may run where that provider does not.
        seconds: how long each batch size with each number of threads is timed.
        lives: how many times the models are loaded anew for that.
        confidence: of the intervals.
        profile: whether to look at single nodes.
        target: TOML file of another machine to do it on.
        bundle: write a zip file that does it elsewhere, and nothing else; its path is returned.
        result: what such a bundle brought back; nothing is timed.
        progress: called as work goes on.

    Raises:
        OnnxPruneError: whatever the caller can mend, in one line.
    """
    request = BenchRequest(
        models=tuple(map(Path, models)),
        data=data,
        preprocess=preprocess,
        batches=numbers("batch", batches),
        threads=numbers("threads", threads),
        provider=provider_named(provider, here=target is bundle is result is None),
        fallback=fallback,
        seconds=seconds,
        lives=lives,
        confidence=confidence,
        profile=profile,
    )
    if bundle is not None:
        return benching.bundle(request, Path(bundle))
    return benching.bench(
        request,
        target=None if target is None else Path(target),
        result=None if result is None else Path(result),
        progress=progress,
    )
