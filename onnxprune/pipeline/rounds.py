"""Iterative pruning: score, remove some, refit what is left, score that, and so on to the budget.

After round k of n the figure of the budget is at most  full (limit / full)^(k / n), a geometric schedule
(Tanaka et al. 2020, arXiv 2006.05467; de Jorge et al. 2021, arXiv 2006.09081). Scores are made of the
model as it is then; which widths are allowed, and which floors, the original says. What goes in the end
is one mask of the original, so that there is one plan and one proof.

Each round refits the weights of the original to what is left (and trains them: iterative magnitude
pruning with rewinding). With training but without `rewind` a round goes on from weights as trained.
"""

from __future__ import annotations

import dataclasses
import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from ..core.analysis import Mask
from ..core.configured import replaced, settings_of, written
from ..core.contracts import SURGERIES, Evidence, Memo, Samples, computed
from ..core.cost import CostModel
from ..core.errors import BudgetError, InternalError, OnnxPruneError, needs_torch
from ..core.external import INLINE_LIMIT, weight_bytes
from ..core.graph import Array, Graph
from ..core.runtime import Session
from ..files.store import digest, load, save
from ..measure.clock import Clock
from ..plan import Step, versions
from ..proof.example import instance_of
from ..selection.budget import Budget
from ..selection.select import Selection, check, select
from ..structure.dependency import analyse
from .decide import Decision, Ranked, gathered, ranked
from .depth import remaining
from .lifted import lifted, unit_origins
from .memory import Memory, content
from .repair import repair
from .request import PruneRequest
from .samples import open_samples
from .study import Subject

if TYPE_CHECKING:
    from ..torch import Recipe

Ints = NDArray[np.int64]

_DERIVED = frozenset({"gradients", "squares", "curvature"})  # statistics that need a target
_TAUGHT = "onnxprune::taught"  # key of the original's outputs among the samples
_FORMAT = 1  # raise it when what rounds remember changes its meaning
_NOT_DECIDING = ("output", "data", "train", "work", "dry_run", "verify", "overwrite", "progress")


def in_rounds(request: PruneRequest, subject: Subject, clock: Clock) -> Decision:
    """Choose what goes in `request.rounds` rounds.

    Raises:
        BudgetError: if the budget is out of reach, before any sample was run; or nothing goes.
        OnnxPruneError: if the model is too large to be kept between rounds, or training refuses.
    """
    budget = request.budget
    assert budget is not None  # the request has checked it
    if subject.depth is not None and (found := remaining(budget, subject.whole, subject.cost)):
        budget = found
    if weight_bytes(subject.graph) > INLINE_LIMIT:
        raise OnnxPruneError("--rounds keeps the model in memory, for which it is too large")
    limit = check(subject.cost, budget, request.options)
    return _Rounds(request, subject, clock, budget, limit).run()


@dataclasses.dataclass
class _Rounds:
    """All rounds of one prune.

    Attributes:
        budget: of the last round; its figure is `limit`.
        gone: int64, global numbers of the original's units that are gone.
        left: the model as it is, and what can be removed from it.
    """

    request: PruneRequest
    subject: Subject
    clock: Clock
    budget: Budget
    limit: float

    def __post_init__(self) -> None:
        """Begin with the original."""
        self.gone: Ints = np.empty(0, np.int64)
        self.left = _taught(self.request, self.subject)
        if self.request.retrain is not None:
            recipe_of(self.request)  # refused before the work

    def run(self) -> Decision:
        """Carry out all rounds; return the decision on the original."""
        request, count = self.request, self.request.rounds
        if self.budget.figure == "units":  # of what may lose any: the budget is a share of it
            whole = self.limit / self.budget.value
        else:
            whole = self.subject.cost.figure(self.budget.weighed)
        for number in range(1, count + 1):
            value = whole * (self.limit / whole) ** (number / count)
            part = dataclasses.replace(self.budget, value=value, relative=False)
            known, found = self._round(number, self.budget if number == count else part)
        if not len(self.gone):
            raise BudgetError(
                f"{self.budget.asked} removes nothing: lower --round-to, or ask for more"
            )
        mask = self._mask(self.gone)
        _check_structure(SURGERIES["channels"](mask), self.left.graph)
        name, criterion = known.criterion
        settings = {"rounds": count, "retrain": request.retrain, "rewind": self._rewinds}
        return Decision(
            subject=self.subject,
            mask=mask,
            criterion=Step(name, settings_of(criterion)),
            selection={"budget": self.budget.asked}
            | dataclasses.asdict(request.options)
            | settings,
            repair=known.repair,
            evidence=known.evidence,
            scores=tuple(found),
            notes=tuple(dict.fromkeys(note for r in known.rankings for note in r.notes)),
            repaired=self.left.graph,
        )

    def _round(self, number: int, budget: Budget) -> tuple[Ranked, list[NDArray[np.float64]]]:
        """Score what is left, remove some of it and refit the rest; returns what was found of it."""
        stage = f"round {number} of {self.request.rounds}: "

        def say(what: str, done: int, total: int) -> None:
            self.clock.progress(f"{stage}{what}", done, total)

        request = dataclasses.replace(self.request, progress=say, work=None)
        samples = self.left.calibration
        if samples is not None and _TAUGHT in samples.extra:
            request = dataclasses.replace(request, labels=_TAUGHT)
        known = ranked(request, self.left, self.clock)
        before = self._mask(self.gone)
        origins = unit_origins(before, self.left.analysis)
        scores = lifted(before, self.left.analysis, origins, known.rankings)
        with self.clock("select"):
            comparable = known.criterion[1].comparable
            found = select(
                self.subject.cost, scores, budget, request.options, comparable=comparable
            )
        self._take(number, request, known, found, origins)
        return known, scores

    def _take(
        self, number: int, request: PruneRequest, known: Ranked, found: Selection, origins: Ints
    ) -> None:
        """Remove what was found, with what is gone already, and go on with the rest."""
        joined = np.union1d(self.gone, found.units)
        if len(joined) == len(self.gone):
            return  # widths are too coarse for so small a step

        def make() -> dict[str, Array]:
            if self._rewinds:
                subject, mask, evidence = self.subject, self._mask(joined), self._evidence
            else:
                subject, evidence = self.left, known.evidence
                mask = subject.analysis.mask(np.flatnonzero(np.isin(origins, joined)))
            decision = Decision(subject, mask, Step("rounds"), {}, known.repair, evidence)
            graph = SURGERIES["channels"](mask)
            graph = repair(request, subject, decision, graph, self.clock)
            text = self._trained(graph, number, request).to_model().SerializeToString()
            return {"units": joined, "model": np.frombuffer(text, np.uint8)}

        held = self._memo(f"round-{number}", make)
        self.gone = np.asarray(held["units"], np.int64)
        graph = Graph.from_model(onnx.load_from_string(held["model"].tobytes()))
        analysis = analyse(graph)
        cost = CostModel(analysis, instance_of(analysis.graph, self.subject.feeds))
        self.left = dataclasses.replace(
            self.left, depth=None, graph=graph, analysis=analysis, cost=cost, whole=cost
        )

    def _trained(self, graph: Graph, number: int, request: PruneRequest) -> Graph:
        """Train a graph by the original as its teacher, if that is asked for."""
        samples = self._training
        if request.retrain is None or samples is None:
            return graph
        from ..torch import retrain

        labels = self.request.labels if self.request.labels in samples.extra else None
        with tempfile.TemporaryDirectory() as folder, self.clock("retrain"):
            student, trained = (Path(folder) / f"{name}.onnx" for name in ("pruned", "trained"))
            save(graph, student, original=self.subject.path)
            kept = None if self._folder is None else self._folder / f"training-{number}"
            retrain(
                student, self.subject.path, samples, trained, recipe=recipe_of(request),
                labels=labels, work=kept, progress=request.progress,
            )  # fmt: skip
            return load(trained)

    def _mask(self, units: Ints) -> Mask:
        return self.subject.analysis.mask(units)

    @property
    def _rewinds(self) -> bool:
        """Whether each round starts from the weights of the original."""
        return self.request.retrain is None or self.request.rewind

    @cached_property
    def _evidence(self) -> Evidence:
        """What a repair of the original looks at."""
        needs = self.request.repairing[1].needs
        return gathered(self.request, self.subject, needs, self.clock)

    @cached_property
    def _training(self) -> Samples | None:
        """Samples to train on: those given for it, else those of the calibration."""
        request = self.request
        if request.train is None:
            return self.subject.calibration
        return open_samples(request.train, self.subject.source, preprocess=request.preprocess)

    @cached_property
    def _memory(self) -> Memory | None:
        request = self.request
        if request.work is None:
            return None
        asked = {
            field.name: str(getattr(request, field.name))
            for field in dataclasses.fields(request)
            if field.name not in _NOT_DECIDING
        }
        data = {
            name: None if samples is None else content(samples)
            for name, samples in (("data", self.subject.calibration), ("train", self._training))
        }
        known = {
            "model": digest(self.subject.path),
            "versions": dict(versions()),
            "rounds": _FORMAT,
        }
        return Memory(Path(request.work), {"asked": asked, **data, **known})

    @property
    def _memo(self) -> Memo:
        return self._memory or computed

    @property
    def _folder(self) -> Path | None:
        return None if self._memory is None else self._memory.folder


def recipe_of(request: PruneRequest) -> Recipe:
    """Return the recipe with the settings of `--retrain`, "epochs=2,rate=0.01".

    Raises:
        OnnxPruneError: for an unknown setting or a value that does not fit, or without PyTorch.
    """
    with needs_torch("--retrain"):
        from ..torch import Recipe

    return replaced(Recipe(seed=request.seed), written(request.retrain or ""), "--retrain")


def _taught(request: PruneRequest, subject: Subject) -> Subject:
    """Return a subject whose samples hold what the original answers, where a loss needs a target.

    A pruned model is then scored by its distance from the original; the original by its own answers.
    """
    samples, graph = subject.calibration, subject.source
    if samples is None or request.labels is not None or not request.scoring[1].needs & _DERIVED:
        return subject
    classes = [v.name for v in graph.outputs if len(v.type.tensor_type.shape.dim) == 2]
    if not classes:
        return subject
    session = Session(subject.path, provider=request.provider)

    def read(start: int, stop: int) -> dict[str, Array]:
        batch = samples.read(start, stop)
        found = session.run({name: batch[name] for name in session.inputs})
        return {**batch, _TAUGHT: found[classes[0]]}

    taught = dataclasses.replace(samples, read=read, extra=(*samples.extra, _TAUGHT))
    return dataclasses.replace(subject, calibration=taught)


def _check_structure(planned: Graph, made: Graph) -> None:
    """Refuse a result whose weights have not the shapes that the plan foresees.

    Raises:
        InternalError: naming the first.
    """
    for name, weight in planned.weights.items():
        found = made.weights.get(planned.origin.get(name, name))
        if found is not None and found.shape != weight.shape:
            raise InternalError(
                f"after all rounds '{name}' has shape {list(found.shape)}, planned {list(weight.shape)}"
            )
