"""The steps of a retraining, from the first or from a checkpoint.

What a step does follows from the recipe and its number alone (samples, changes, Dropout), so that a run
that was killed and resumed ends, on a CPU, in the weights of one that was not.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..core.errors import OnnxPruneError
from ..core.samples import Progress
from . import checkpoint
from .answers import Answers, Teacher
from .batches import Batch, Batches
from .checkpoint import State
from .foof import Foof
from .loss import Loss
from .ops.norm import BatchNormalization
from .processes import Processes
from .recipe import Recipe
from .teachers import laid_out

log = logging.getLogger(__name__)
_RENEWED = 200  # steps after which moments of inputs are taken anew


class DivergedError(OnnxPruneError):
    """The loss is no number any more."""


@dataclasses.dataclass
class Memory:
    """What a run knows beside tensors; a checkpoint's notes.

    Attributes:
        step: the next one.
        parts: in how many a batch is computed, for want of memory.
        best: loss on held-out samples of the best weights.
        since: epochs since then.
        agreement: share of the held-out samples whose class was the teacher's then; NaN: unknown.
    """

    step: int = 0
    parts: int = 1
    best: float = math.inf
    since: int = 0
    agreement: float = math.nan

    def notes(self) -> dict[str, str]:
        """Return it as text, exactly."""
        return {name: repr(value) for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def of(cls, notes: dict[str, str]) -> Memory:
        """Return what notes say."""
        kinds = {"step": int, "parts": int, "best": float, "since": int, "agreement": float}
        return cls(**{name: kind(notes[name]) for name, kind in kinds.items()})


class Run:
    """One training.

    Attributes:
        good: how many steps were taken where an epoch last began with a finite loss, and the weights.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        recipe: Recipe,
        teacher: Teacher,
        batches: Batches,
        loss: Loss,
        inputs: list[str],
        processes: Processes,
    ) -> None:
        if batches.size % processes.count:
            raise OnnxPruneError(
                f"--batch {batches.size} cannot be shared by {processes.count} processes: give a "
                "multiple"
            )
        # channels last: convolutions take a third less time on a CPU, and less on a GPU, too
        module.to(device=processes.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.module, self.recipe, self.teacher = module, recipe, Answers(teacher, inputs)
        self.batches, self.loss, self.inputs, self.processes = batches, loss, inputs, processes
        self.optimizer = recipe.optimizer_of(module)
        self.foof = Foof(module, recipe.damping) if recipe.optimizer == "foof" else None
        self.average: AveragedModel | None = None
        if recipe.average:
            decay = get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(module, multi_avg_fn=decay)
        self.forward = processes.wrap(torch.compile(module) if recipe.compile else module)
        self.memory, self.best = Memory(), State()
        self.good: tuple[int, State] = (0, State())
        self._path: Path | None = None

    def keep(self, path: Path, notes: dict[str, str], every: float) -> None:
        """Write checkpoints to `path`, each `every` seconds; begin with the one that is there."""
        self._path, self._notes, self._every = path, notes, every
        if path.exists():
            state, found = checkpoint.read(path, notes)
            self.memory, self.best = Memory.of(found), checkpoint.take("best", state)
            self.module.load_state_dict(checkpoint.take("module", state))
            checkpoint.to_optimizer(self.optimizer, checkpoint.take("optimizer", state))
            if self.foof is not None:
                held = checkpoint.take("foof", state)
                self.foof.held = {
                    name: value.to(self.processes.device) for name, value in held.items()
                }
            if self.average is not None:
                self.average.load_state_dict(checkpoint.take("average", state))

    def all(self, progress: Progress) -> tuple[float, ...]:
        """Take all steps that are left; returns the mean loss of each epoch that ended.

        Raises:
            DivergedError: if the loss or its gradient is no number.
        """
        means, losses, written = [], [], time.perf_counter()
        if self.memory.step == 0:
            self._judge()  # what training has to be better than
        for step in range(self.memory.step, self.batches.steps):
            if self.recipe.patience and self.memory.since >= self.recipe.patience:
                log.info("no progress on held-out samples for %d epochs: done", self.memory.since)
                break
            losses.append(self._step(step))
            self.memory.step, ended = step + 1, (step + 1) % self.batches.each == 0
            if ended:
                means.append(float(np.mean(losses)))
                losses = []
                self._judge()
                log.info("step %d: %s", step + 1, self._said(means[-1]))
            if ended or self._is_due(written):
                self._write()
                written = time.perf_counter()
            progress(f"retraining, {self._said(losses[-1] if losses else means[-1])}", step + 1,
                     self.batches.steps)  # fmt: skip
        return tuple(means)

    def final(self) -> State:
        """Return the weights to keep: the best on held-out samples, else the averaged or last ones."""
        return self.best or {
            name: value.clone() for name, value in self._judged.state_dict().items()
        }

    @property
    def _judged(self) -> nn.Module:
        """The module whose weights are kept."""
        return self.module if self.average is None else self.average.module

    def _said(self, loss: float) -> str:
        agree = self.memory.agreement
        return f"loss {loss:.4g}" + ("" if math.isnan(agree) else f", {agree:.1%} agree")

    def _is_due(self, written: float) -> bool:
        return self._path is not None and time.perf_counter() - written >= self._every

    def _write(self) -> None:
        if self._path is not None and self.processes.is_main:
            state = checkpoint.put("module", self.module.state_dict())
            state |= checkpoint.put("optimizer", checkpoint.of_optimizer(self.optimizer))
            state |= checkpoint.put("best", self.best)
            if self.foof is not None:
                state |= checkpoint.put("foof", self.foof.held)
            if self.average is not None:
                state |= checkpoint.put("average", self.average.state_dict())
            checkpoint.write(self._path, state, {**self._notes, **self.memory.notes()})

    def _step(self, step: int) -> float:
        """Take one step; returns its loss."""
        whole = self.batches.train(step)
        batch = whole.part(self.processes.part(len(whole)))
        loss = self._gradients(step, batch)
        if self.foof is not None and math.isfinite(loss):
            if step % _RENEWED == 0:
                arrays = [whole.arrays[name][: self.batches.once] for name in self.inputs]
                self.foof.renew([torch.from_numpy(a).to(self.processes.device) for a in arrays])
            self.foof.apply()
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.recipe.clip)
        if not (math.isfinite(loss) and bool(torch.isfinite(norm))):
            what = "loss" if not math.isfinite(loss) else "gradient"
            value = loss if what == "loss" else float(norm)
            raise DivergedError(
                f"the {what} is {value} at step {step + 1}: lower --rate (it is {self.recipe.highest_rate}) "
                "or raise --warmup"
            )
        if step % self.batches.each == 0:
            self.good = step, {n: v.cpu().clone() for n, v in self._judged.state_dict().items()}
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate_at(step, self.batches.steps)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.module)
        return loss

    def _gradients(self, step: int, batch: Batch) -> float:
        """Compute the gradients of a batch, in more parts where memory ends; returns the loss."""
        while True:
            try:
                return self._in_parts(step, batch)
            except RuntimeError as error:
                if not _is_memory(error):
                    raise
                rows = len(batch) // self.memory.parts
                if rows < 2 or self.processes.count > 1:
                    raise OnnxPruneError(
                        f"out of memory with {rows} samples at once: lower --batch (it is "
                        f"{self.recipe.batch}) or retrain on another machine"
                    ) from error
            self.memory.parts *= 2
            log.warning(
                "out of memory with %d samples at once: from step %d on, batches of %d are computed "
                "in %d parts, whose gradients are added up", rows, step + 1, len(batch), self.memory.parts,
            )  # fmt: skip

    def _begin(self) -> None:
        """Turn to training; BatchNormalization keeps its statistics unless it is put back for theirs."""
        self.module.train()
        for part in self.module.modules():
            if isinstance(part, BatchNormalization):
                part.train(self.recipe.unfold)

    def _in_parts(self, step: int, batch: Batch) -> float:
        self._begin()
        self.optimizer.zero_grad()
        torch.manual_seed(
            (self.recipe.seed * self.batches.steps + step) * 1024 + self.processes.rank
        )
        total, size = 0.0, min(-(-len(batch) // self.memory.parts), self.batches.once)
        for start in range(0, len(batch), size):
            part = batch.part(slice(start, start + size))
            last = start + size >= len(batch)
            with nullcontext() if last else self.processes.apart(self.forward):
                loss = self._loss(part) * (len(part) / len(batch))
                loss.backward()  # type: ignore[no-untyped-call]
            total += self.processes.mean(loss)
        return total

    def _loss(self, batch: Batch) -> Tensor:
        """Return the loss of a batch."""
        return self._compared(self.forward, batch)[0]

    def _compared(self, student: Callable[..., object], batch: Batch) -> tuple[Tensor, int]:
        """Return a loss, and how many classes are the teacher's."""
        device = self.processes.device
        theirs = self.teacher(batch)
        held = {name: laid_out(torch.from_numpy(v).to(device)) for name, v in batch.arrays.items()}
        with torch.autocast(device.type, torch.bfloat16, self.recipe.precision == "bfloat16"):
            made = student(*(held[name] for name in self.inputs))
        found = [made] if isinstance(made, Tensor) else list(made)  # type: ignore[call-overload]
        loss = self.loss(found, theirs, held, batch.share)
        if not self.loss.classes:
            return loss, 0
        name = self.loss.classes[0]
        mine = found[self.loss.outputs.index(name)]
        return loss, int((mine.argmax(1) == theirs[name].argmax(1)).sum())

    @torch.no_grad()
    def _judge(self) -> None:
        """Compare on held-out samples, and remember the weights that did best."""
        if not self.batches.held:
            return
        student = self._judged.eval()
        total, same = 0.0, 0
        for batch in self.batches.judge():
            loss, agreed = self._compared(student, batch)
            total += float(loss) * len(batch)
            same += agreed
        mean = self.processes.mean(
            torch.tensor(total / self.batches.held, device=self.processes.device)
        )
        self.memory.since += 1
        if mean < self.memory.best:
            self.memory.best, self.memory.since = mean, 0
            self.best = {name: value.cpu().clone() for name, value in student.state_dict().items()}
            self.memory.agreement = same / self.batches.held if self.loss.classes else math.nan


def _is_memory(error: RuntimeError) -> bool:
    """Tell whether memory ended: on a GPU, or on the host, where PyTorch has no error of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
