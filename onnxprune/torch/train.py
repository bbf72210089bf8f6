"""Retraining after pruning: the original model, run by onnxruntime, teaches the pruned one.

Several processes that a launcher has started (`accelerate launch`) train together.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, cat, from_numpy, fx, no_grad

from ..core.errors import DataError, OnnxPruneError
from ..core.graph import Array, Graph
from ..core.named import importable_here, named_function
from ..core.samples import Progress, Samples, silent
from ..files.store import digest, load, save
from ..pipeline.samples import Data, open_samples
from ..providers import provider_named
from .batches import Batches
from .checkpoint import State
from .convert import from_onnx
from .features import Feature, features, with_outputs
from .loss import Loss
from .processes import Processes
from .recipe import Recipe
from .run import DivergedError, Run
from .teachers import by_onnxruntime, by_pytorch
from .unfold import refresh_batchnorm, unfold_batchnorm
from .writeback import written_back

_EVERY = 60.0  # seconds between checkpoints
_STATISTICS = 512  # samples for means and variances that a training begins with


@dataclasses.dataclass(frozen=True)
class Retrained:
    """What a run did.

    Attributes:
        steps: that were taken, of this process and those before.
        resumed: the step at which this process began.
        losses: mean loss of each epoch that ended in this process.
        agreement: share of the held-out samples whose class is the teacher's; None without such.
        kept: number of the epoch whose weights did best on the held-out samples and are kept; 0: those
            before training; None without such samples.
        parts: in how many a batch was computed in the end, for want of memory.
        seconds: of this process.
    """

    steps: int
    resumed: int
    losses: tuple[float, ...]
    agreement: float | None
    kept: int | None
    parts: int
    seconds: float


def retrain(
    model: Path | str,
    teacher: Path | str,
    data: Data,
    output: Path | str,
    *,
    recipe: Recipe | None = None,
    labels: str | None = None,
    plan: Path | str | None = None,
    preprocess: str | Mapping[str, Any] | None = None,
    device: str = "auto",
    provider: str = "cpu",
    work: Path | None = None,
    every: float = _EVERY,
    progress: Progress = silent,
) -> Retrained:
    """Train a pruned model to say what the original says, and write it.

    Args:
        model: the pruned file.
        teacher: the original file, with the same inputs and outputs.
        data: samples of the inputs; anything that `prune` reads.
        output: where to.
        recipe: settings; the default ones if None.
        labels: key of integer labels in the data, one per sample; None trains without.
        plan: of the prune, for `Recipe.features`; None: beside the model, as `prune` leaves it.
        preprocess: for images, see `prune`.
        device: of the student: "cpu", "cuda" or "auto".
        provider: onnxruntime's for the teacher: "cpu", "cuda", ...
        work: folder of the checkpoint; none is written without. What is there is resumed.
        every: seconds between checkpoints.
        progress: called after each step.

    Raises:
        OnnxPruneError: in one line: the files do not go together, labels are missing, an operator is
            not carried to PyTorch, memory ends, the loss is no number (then the last good weights are
            in `OUTPUT.last-good.onnx`), the checkpoint is of another run.
    """
    recipe, start = recipe or Recipe(), time.perf_counter()
    processes, graph, original, output = Processes(device), load(model), load(teacher), Path(output)
    samples = open_samples(data, graph, preprocess=preprocess)
    _check(graph, original, samples, labels)
    ends = _ends(graph, original, model, plan, recipe)
    run = _prepared(
        graph, original, samples, recipe, labels, ends, processes, provider_named(provider)
    )
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
        parts = {"model": digest(model), "teacher": digest(teacher), "data": samples.digest}
        parts["ends"] = " ".join(end.name for end in ends)
        run.keep(work / "checkpoint.safetensors", {**parts, "recipe": recipe.digest()}, every)
    first = run.memory.step
    try:
        losses = run.all(progress if processes.is_main else silent)
    except DivergedError as error:
        raise DivergedError(f"{error}{_rescued(run, graph, output, model)}") from error
    _write(run, run.final(), graph, output, model)
    return _done(run, first, losses, time.perf_counter() - start)


def _done(run: Run, first: int, losses: tuple[float, ...], seconds: float) -> Retrained:
    """Say what a run did that began at step `first`."""
    memory = run.memory
    agreement = None if math.isnan(memory.agreement) else memory.agreement
    kept = memory.step // run.batches.each - memory.since if run.batches.held else None
    return Retrained(memory.step, first, losses, agreement, kept, memory.parts, seconds)


def _write(run: Run, state: State, graph: Graph, path: Path, model: Path | str) -> None:
    """Write weights back into the graph they came from; one process does, the others wait."""
    run.module.load_state_dict(state)
    if run.processes.is_main:
        save(written_back(run.module.cpu().eval(), graph), path, original=model)
    run.processes.wait()


def _check(graph: Graph, teacher: Graph, samples: Samples, labels: str | None) -> None:
    """Refuse what does not go together.

    Raises:
        OnnxPruneError: in one line.
    """
    for kind, ours, theirs in (
        ("inputs", graph.inputs, teacher.inputs),
        ("outputs", graph.outputs, teacher.outputs),
    ):
        names = [[value.name for value in values] for values in (ours, theirs)]
        if sorted(names[0]) != sorted(names[1]):
            raise OnnxPruneError(
                f"the teacher has other {kind}: the model has {names[0]}, the teacher {names[1]}; give "
                "the file that the model was pruned from"
            )
    if samples.count == 0:
        raise DataError("there are no samples to train on: give at least one")
    if labels is not None and labels not in samples.extra:
        known = ", ".join(map(repr, samples.extra)) or "nothing but inputs"
        raise DataError(f"--labels '{labels}': the data has no such key; besides inputs: {known}")


def _ends(
    graph: Graph, original: Graph, model: Path | str, plan: Path | str | None, recipe: Recipe
) -> list[Feature]:
    """Return the block ends to compare at, if any.

    Raises:
        OnnxPruneError: if they are asked for and there is no plan or no block; or the plan does not fit.
    """
    path = Path(plan) if plan is not None else Path(model).with_suffix(".plan.json")
    if not path.is_file() and plan is not None:
        raise OnnxPruneError(f"there is no plan '{path}': give the file that `prune` left")
    if not path.is_file() and recipe.features:
        raise OnnxPruneError(
            f"--features needs the plan of the prune, and there is no '{path}': give --plan"
        )
    wanted = recipe.features_if_any > 0 and path.is_file()
    found = features(graph, original, path) if wanted else []
    if recipe.features and not found:
        raise OnnxPruneError(
            "--features: no residual block of the original is left in the model, so there is nothing "
            "to compare: leave it out"
        )
    return found


def _prepared(
    graph: Graph,
    original: Graph,
    samples: Samples,
    recipe: Recipe,
    labels: str | None,
    ends: list[Feature],
    processes: Processes,
    provider: str,
) -> Run:
    """Return a run at its first step."""
    inputs = [value.name for value in graph.inputs]
    outputs = [value.name for value in graph.outputs]
    batches = Batches(samples, recipe, inputs, labels)

    def some(count: int = _STATISTICS) -> Iterator[dict[str, Array]]:
        for batch in batches.typical(count):
            yield {name: batch.arrays[name] for name in inputs}

    def tensors() -> Iterator[list[Tensor]]:
        for feeds in some():
            yield [from_numpy(array) for array in feeds.values()]

    module = from_onnx(graph)
    if recipe.unfold:
        module = unfold_batchnorm(refresh_batchnorm(module, tensors()), tensors())
    module = with_outputs(module, [end.name for end in ends])
    device = processes.device
    if recipe.taught_by == "pytorch":
        teach = by_pytorch(original, outputs, ends, device, mixed=recipe.precision == "bfloat16")
    else:
        teach = by_onnxruntime(original, outputs, ends, provider, device)
    taught = [teach(feeds) for feeds in some(batches.size)]
    _check_shapes(module, next(some(batches.size)), taught[0])
    own = None
    if recipe.loss is not None:
        with importable_here():
            own = named_function(recipe.loss, "--loss")
    names = [end.name for end in ends]
    whole = {name: cat([part[name] for part in taught]) for name in taught[0]}
    loss = Loss(recipe, outputs, names, whole, labelled=labels is not None, own=own)
    return Run(module, recipe, teach, batches, loss, inputs, processes)


def _check_shapes(
    module: fx.GraphModule, feeds: dict[str, Array], taught: Mapping[str, Tensor]
) -> None:
    """Refuse a teacher whose outputs have other shapes.

    Raises:
        OnnxPruneError: naming the first.
    """
    with no_grad():
        made = module(*map(from_numpy, feeds.values()))
    found = [made] if isinstance(made, Tensor) else made
    for mine, (name, theirs) in zip(found, taught.items(), strict=True):
        if list(mine.shape) != list(theirs.shape):
            raise OnnxPruneError(
                f"'{name}' has shape {list(mine.shape)} in the model and {list(theirs.shape)} in the "
                "teacher: give the file that the model was pruned from"
            )


def _rescued(run: Run, graph: Graph, output: Path, model: Path | str) -> str:
    """Write the last weights that had a finite loss; returns what to say of them."""
    step, state = run.good
    if not step:
        return ""
    path = output.with_suffix(".last-good.onnx")
    _write(run, state, graph, path, model)
    return f"; the weights after {step} steps, the last good ones, are in '{path}'"
