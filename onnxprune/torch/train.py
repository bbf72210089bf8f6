"""Retraining after pruning: the original model, run by onnxruntime, teaches the pruned one.

What a step does depends on the recipe and its number alone (order of samples, Dropout), so that a run
that was killed and resumed ends, on a CPU, in the weights of one that was not.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from ..core.errors import DataError, OnnxPruneError
from ..core.graph import Array, Graph
from ..core.runtime import Session
from ..core.samples import Progress, Samples, concatenate, silent
from ..files.store import digest, load, save
from ..pipeline.samples import Data, open_samples
from . import checkpoint
from .convert import from_onnx
from .recipe import Recipe
from .writeback import written_back

_EVERY = 60.0  # seconds between checkpoints


@dataclasses.dataclass(frozen=True)
class Retrained:
    """What a run did.

    Attributes:
        steps: all steps of the recipe.
        resumed: the step at which this process began.
        losses: mean loss of each epoch that ended in this process.
        seconds: of this process.
    """

    steps: int
    resumed: int
    losses: tuple[float, ...]
    seconds: float


def retrain(
    model: Path | str,
    teacher: Path | str,
    data: Data,
    output: Path | str,
    *,
    recipe: Recipe | None = None,
    labels: str | None = None,
    preprocess: str | Mapping[str, Any] | None = None,
    work: Path | None = None,
    every: float = _EVERY,
    progress: Progress = silent,
) -> Retrained:
    """Train a pruned model to say what the original says, and write it.

    Args:
        model: the pruned file.
        teacher: the original file, with the same inputs and outputs.
        data: samples of the inputs, all of which are used; anything that `prune` reads.
        output: where to.
        recipe: settings; the default ones if None.
        labels: key of integer labels in the data, one per sample; None trains without.
        preprocess: for images, see `prune`.
        work: folder of the checkpoint; none is written without. What is there is resumed.
        every: seconds between checkpoints.
        progress: called after each step.

    Raises:
        OnnxPruneError: in one line: the files do not go together, labels are missing, an operator is
            not carried to PyTorch, the loss is no number, the checkpoint is of another run.
    """
    recipe, start = recipe or Recipe(), time.perf_counter()
    graph = load(model)
    samples = open_samples(data, graph, preprocess=preprocess)
    session = Session(teacher)
    _check(graph, session, samples, labels)
    module = from_onnx(graph)
    run = _Run(module, recipe, session, samples, [v.name for v in graph.inputs], labels)
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
        parts = {"model": digest(model), "teacher": digest(teacher), "data": samples.digest}
        run.keep(work / "checkpoint.safetensors", {**parts, "recipe": recipe.digest()}, every)
    losses = run.all(progress)
    save(written_back(module.eval(), graph), output, original=model)
    return Retrained(run.steps, run.first, losses, time.perf_counter() - start)


def _check(graph: Graph, session: Session, samples: Samples, labels: str | None) -> None:
    """Refuse what does not go together.

    Raises:
        OnnxPruneError: in one line.
    """
    for kind, ours, theirs in (
        ("inputs", [v.name for v in graph.inputs], session.inputs),
        ("outputs", [v.name for v in graph.outputs], session.outputs),
    ):
        if sorted(ours) != sorted(theirs):
            raise OnnxPruneError(
                f"the teacher has other {kind}: the model has {ours}, the teacher {theirs}; give "
                "the file that the model was pruned from"
            )
    if samples.count == 0:
        raise DataError("there are no samples to train on: give at least one")
    if labels is not None and labels not in samples.extra:
        known = ", ".join(map(repr, samples.extra)) or "nothing but inputs"
        raise DataError(f"--labels '{labels}': the data has no such key; besides inputs: {known}")


class _Run:
    """One training: all steps of a recipe, from the first or from a checkpoint."""

    def __init__(
        self,
        module: fx.GraphModule,
        recipe: Recipe,
        teacher: Session,
        samples: Samples,
        inputs: list[str],
        labels: str | None,
    ) -> None:
        self.module, self.recipe, self.teacher, self.samples = module, recipe, teacher, samples
        self.inputs, self.labels = inputs, labels
        self.optimizer = recipe.optimizer_of(module)
        self.size = samples.batch or min(recipe.batch, samples.count)
        self.each = samples.count // self.size  # steps an epoch; the rest waits for another order
        self.steps, self.first = recipe.epochs * self.each, 0
        self.path: Path | None = None

    def keep(self, path: Path, notes: dict[str, str], every: float) -> None:
        """Write checkpoints to `path`; begin with the one that is there."""
        self.path, self.notes, self.every = path, notes, every
        if path.exists():
            found = checkpoint.read(path, self.module, self.optimizer, notes)
            self.first = int(found["step"])

    def all(self, progress: Progress) -> tuple[float, ...]:
        """Take all steps that are left; returns the mean loss of each epoch that ended."""
        self.module.train()
        means, losses, written = [], [], time.perf_counter()
        for step in range(self.first, self.steps):
            losses.append(self.step(step))
            ended = (step + 1) % self.each == 0
            if ended:
                means.append(float(np.mean(losses)))
                losses = []
            if self.path and (time.perf_counter() - written >= self.every or ended):
                notes = {**self.notes, "step": str(step + 1)}
                checkpoint.write(self.path, self.module, self.optimizer, notes)
                written = time.perf_counter()
            progress("retraining", step + 1, self.steps)
        return tuple(means)

    def step(self, step: int) -> float:
        """Take one step; returns its loss.

        Raises:
            OnnxPruneError: if the loss is no number; parameters are those before the step.
        """
        epoch, place = divmod(step, self.each)
        torch.manual_seed(self.recipe.seed * self.steps + step)
        batch = self._batch(epoch, place)
        expected = self.teacher.run({name: batch[name] for name in self.inputs})
        found = self.module(*(torch.from_numpy(batch[name]) for name in self.inputs))
        outputs = [found] if isinstance(found, Tensor) else list(found)
        truth = None if self.labels is None else torch.from_numpy(batch[self.labels]).long()
        loss = self._loss(outputs, [expected[name] for name in self.teacher.outputs], truth)
        if not torch.isfinite(loss):
            kept = f"; the last good weights are in '{self.path}'" if self.path else ""
            raise OnnxPruneError(
                f"the loss is {loss.item()} at step {step + 1}: lower --rate (it is "
                f"{self.recipe.rate}) or raise --warmup{kept}"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate_at(step, self.steps)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.recipe.clip)
        self.optimizer.step()
        return loss.item()

    def _batch(self, epoch: int, place: int) -> dict[str, Array]:
        """Return the samples of a step: runs of them, in an order of the epoch's own."""
        rng = np.random.default_rng([self.recipe.seed, epoch])
        chunk = self.samples.batch or 1
        order = rng.permutation(self.samples.count // chunk)
        count = self.size // chunk
        picked = order[place * count : (place + 1) * count]
        return concatenate(self.samples.read(i * chunk, (i + 1) * chunk) for i in map(int, picked))

    def _loss(self, outputs: list[Tensor], expected: list[Array], truth: Tensor | None) -> Tensor:
        """Return how far outputs are from the teacher's, and the first classes from the truth."""
        pairs = [
            (mine, torch.from_numpy(theirs))
            for mine, theirs in zip(outputs, expected, strict=True)
            if theirs.dtype.kind == "f"
        ]
        taught = torch.stack([self._distance(*pair) for pair in pairs]).mean()
        if truth is None:
            return taught
        share = self.recipe.label_weight
        scores = next(mine for mine, _ in pairs if mine.ndim == 2)
        return (1 - share) * taught + share * F.cross_entropy(scores, truth.reshape(-1))

    def _distance(self, mine: Tensor, theirs: Tensor) -> Tensor:
        """Kullback-Leibler divergence of classes (logits or shares); else the error over the variance."""
        if theirs.ndim == 2 and theirs.shape[1] > 1:
            heat = self.recipe.temperature
            if bool((theirs >= 0).all()) and bool(((theirs.sum(1) - 1).abs() < 1e-3).all()):
                mine, theirs = mine.clamp(min=1e-12).log(), theirs.clamp(min=1e-12).log()
            log_mine, log_theirs = (F.log_softmax(x / heat, 1) for x in (mine, theirs))
            return heat**2 * F.kl_div(log_mine, log_theirs, reduction="batchmean", log_target=True)
        return F.mse_loss(mine, theirs) / theirs.var(correction=0).clamp(min=1e-12)
