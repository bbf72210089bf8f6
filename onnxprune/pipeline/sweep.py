"""The frontier of what is lost against what is saved: one prune per budget, from one calibration.

Each point is the prune that its budget alone would be, with the same file to the last byte; scores are
made once and serve all. Points are judged on held-out samples; their bounds hold together (Bonferroni),
so that any of them may be picked afterwards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from ..core.configured import settings_of
from ..core.contracts import Memo, computed
from ..core.errors import BudgetError, DataError, OnnxPruneError
from ..core.graph import Array
from ..core.interface import interface_of
from ..core.runtime import Session
from ..files.store import digest
from ..measure.clock import Clock
from ..plan import (
    DataId,
    Frontier,
    ModelId,
    Point,
    PointTime,
    Step,
    versions,
    with_dominated,
    write_frontier,
)
from ..selection.select import least
from ..timing.job import BenchRequest
from ..timing.run import bench
from .decide import Ranked, ranked
from .joint import deepest
from .judging import Judge, limit_of, packed, unpacked
from .memory import Memory
from .request import PruneRequest
from .run import carried_out, deciding, write
from .study import Subject, refuse_output, study

NAME = "frontier.json"
_FORMAT = 1  # raise it when what points remember changes its meaning
_STEP = 1e-3  # evenly spread shares are whole multiples of it, as a user would type them
_SECONDS = 1.0  # of timing for each file
_OF_THE_SWEEP = ("sweep", "by", "metric", "confidence", "bench")  # options, not of its points
_POINT = TypeAdapter(Point)


@dataclasses.dataclass(frozen=True)
class SweepReport:
    """What a sweep made.

    Attributes:
        folder: where files, plans and the frontier are.
        path: of the frontier.
        frontier: as it stands in that file.
        remembered: points that an earlier run had made.
        seconds: what each step took, all points together.
    """

    folder: Path
    path: Path
    frontier: Frontier
    remembered: int
    seconds: dict[str, float]


def sweep(request: PruneRequest) -> SweepReport:
    """Carry out one sweep.

    Raises:
        BudgetError: if a budget is out of reach, before any work, or all of them remove nothing.
        OnnxPruneError: whatever the user can mend, in one line.
    """
    if request.sweep is None:
        raise OnnxPruneError("a sweep needs its budgets: give --sweep, such as 0.8,0.6,0.4 or 8")
    clock = Clock(request.progress)
    subject = study(request, clock)
    samples = subject.held_out
    if samples is None:
        raise DataError("--sweep needs samples to judge by: give --data, with four samples or more")
    shares = _shares(request, subject)
    limit = limit_of(request, subject, 1.0, len(shares))
    found = _Sweep(request, subject, clock, Judge(request, subject, samples, limit), shares)
    return found.run()


def _shares(request: PruneRequest, subject: Subject) -> tuple[float, ...]:
    """Return the shares to try; spread evenly where only their number is given."""
    if not isinstance(request.shares, int):
        return request.shares
    if request.by == "latency":
        raise BudgetError(
            "--sweep by latency: name the shares, since the least time is not known yet"
        )
    low = _least(request, subject)
    steps = 1 - (1 - low) * np.arange(1, request.shares + 1) / request.shares
    rounded = np.ceil(np.round(steps / _STEP, 6)) * _STEP
    found = sorted({round(float(share), 3) for share in rounded if share < 1}, reverse=True)
    if not found:
        raise BudgetError("--sweep: no group of channels may lose any (see --keep, --floor)")
    return tuple(found)


def _least(request: PruneRequest, subject: Subject) -> float:
    """Return the least share of the figure that can remain."""
    figure = float(getattr(least(deepest(request, subject), request.options), request.by))
    return figure / subject.whole.figure(request.by)


@dataclasses.dataclass
class _Sweep:
    """One sweep.

    Attributes:
        stage: what progress says first.
        made: points that no earlier run had made.
        notes: points that were left out.
    """

    request: PruneRequest
    subject: Subject
    clock: Clock
    judge: Judge
    shares: tuple[float, ...]
    stage: str = ""
    made: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)

    def run(self) -> SweepReport:
        """Make all points, time them if that is asked for, and write the frontier."""
        self.request = dataclasses.replace(self.request, progress=self.say)
        self.judge.request = self.request
        self.judge.try_metric()
        requests = [self._request(share) for share in self.shares]
        self._refuse_early(requests)
        self._make_folder()
        points: list[Point] = []
        for number, (share, request) in enumerate(zip(self.shares, requests, strict=True), 1):
            self.stage = f"point {number} of {len(requests)}: "
            if (point := self._point(share, request)) is not None:
                points.append(point)
                self._write(points)
        if not points:
            raise BudgetError(f"--sweep {self.request.sweep}: {self.notes[0]}")
        self.stage = ""
        timed, said = self._timed(points) if self.request.benched else (points, {})
        frontier = self._write(timed, **said)
        remembered = len(self.shares) - self.made
        return SweepReport(
            self.folder, self.folder / NAME, frontier, remembered, self.clock.seconds
        )

    def say(self, what: str, done: int, total: int) -> None:
        """Report progress with the number of the point."""
        self.clock.progress(f"{self.stage}{what}", done, total)

    @property
    def folder(self) -> Path:
        """Where files go."""
        return self.request.target

    def _request(self, share: float) -> PruneRequest:
        """Return the prune that one point is."""
        by = self.request.by
        name = f"{Path(self.request.model).stem}.{by}-{share:.6g}.onnx"
        defaults = {field.name: field.default for field in dataclasses.fields(PruneRequest)}
        changes: dict[str, Any] = {option: defaults[option] for option in _OF_THE_SWEEP}
        changes |= {by: share, "output": self.folder / name}
        return dataclasses.replace(self.request, **changes)

    def _refuse_early(self, requests: Sequence[PruneRequest]) -> None:
        """Refuse what is out of reach, or would write over the input, before any work."""
        if self.request.by != "latency":
            low, last = _least(self.request, self.subject), self.shares[-1]
            if last < low:
                raise BudgetError(
                    f"--sweep: {last:g} of the {self.request.by} is out of reach, the least is "
                    f"{np.ceil(low / _STEP) * _STEP:.3f} (see --floor, --keep, --round-to)"
                )
        for request in requests:
            if request.target.exists():
                refuse_output(self.subject.path, request.target, overwrite=False)

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OnnxPruneError(
                f"cannot make the folder '{self.folder}': {error.strerror}; choose another -o"
            ) from error

    @cached_property
    def _known(self) -> Ranked:
        return ranked(self.request, self.subject, self.clock)

    def _point(self, share: float, request: PruneRequest) -> Point | None:
        """Make one point, or remember it; None where its budget removes nothing."""
        before = self.made

        def make() -> dict[str, Array]:
            self.made += 1
            return self._made(share, request)

        try:
            held = self._memo(request)(f"point-{share:.6g}", make)
            point = _POINT.validate_json(held["point"].tobytes())
            if self.made == before and not _is_there(point, request):
                held = make()
                point = _POINT.validate_json(held["point"].tobytes())
        except BudgetError as error:
            self.notes.append(f"{share:g}: {error}")
            return None
        drop = self.judge.limit.judge(unpacked(held))
        return dataclasses.replace(point, lost=drop.value, bound=drop.bound)

    def _made(self, share: float, request: PruneRequest) -> dict[str, Array]:
        """Decide, cut, prove, repair, judge and write; return the point and how it was judged."""
        decision = deciding(request)(request, self.subject, self.clock, self._known)
        made = carried_out(request, decision, self.clock)
        with self.clock("compare"):
            session = Session(made.graph, provider=request.provider)
            found = self.judge.compared(session, interface_of(decision.mask))
        files = write(request, self.subject, made, self.clock)
        figures, drop = made.plan.figures, self.judge.limit.judge(found)
        point = Point(
            asked=share,
            model=ModelId(request.target.name, digest(request.target)),
            plan=request.plan_target.name,
            macs=figures["macs"].after,
            params=figures["params"].after,
            bytes=sum(f.stat().st_size for f in files if f != request.plan_target.resolve()),
            lost=drop.value,
            bound=drop.bound,
            accuracy=None if found.accuracy is None else found.accuracy.top1,
            agreement=found.agreement,
            error=found.error,
            gap=None if made.proof is None else made.proof.gap,
        )
        return {"point": np.frombuffer(_POINT.dump_json(point), np.uint8), **packed(found)}

    def _memo(self, request: PruneRequest) -> Memo:
        if request.work is None:
            return computed
        (criterion, used), device = request.scoring, request.device
        return Memory(
            Path(request.work),
            {
                "points": _FORMAT, **self.judge.decided_by(), "criterion": criterion,
                "criterion settings": settings_of(used), "by": self.request.by,
                "options": dataclasses.asdict(request.options), "verify": request.verify,
                "depth": request.depth if request.joint else None,
                "threads": request.threads,
                "device": "" if device is None else Path(device).read_text(),
            },
        )  # fmt: skip

    def _timed(self, points: Sequence[Point]) -> tuple[list[Point], dict[str, Any]]:
        """Time all files side by side; return the points, and what the frontier says of that."""
        files = (self.subject.path, *(self.folder / point.model.name for point in points))
        asked = BenchRequest(
            files, threads=(self.request.threads,), provider=self.request.provider,
            seconds=_SECONDS * len(files), profile=False,
        )  # fmt: skip
        device = self.request.device
        with self.clock("time"):
            found = bench(asked, target=None if device is None else Path(device), progress=self.say)
        original, *others = found.cells[0].models
        timed = [
            dataclasses.replace(point, time=PointTime(t.median, t.ratio, *t.between))
            for point, t in zip(points, others, strict=True)
        ]
        machine = (
            f"{found.machine.processor}, {found.machine.cores} cores, {found.provider}, "
            f"onnxruntime {found.machine.onnxruntime}"
        )
        return timed, {"milliseconds": original.median, "machine": machine}

    def _write(
        self, points: Sequence[Point], milliseconds: float | None = None, machine: str = ""
    ) -> Frontier:
        """Write what there is so far."""
        request, subject, whole = self.request, self.subject, self.subject.whole
        calibration, (repair, used) = subject.calibration, request.repairing
        assert calibration is not None  # there are samples to judge by
        frontier = Frontier(
            model=ModelId(subject.path.name, digest(subject.path)),
            data=DataId(calibration.digest, calibration.count, calibration.random),
            samples=self.judge.samples.count,
            by=request.by,
            metric=self.judge.limit.metric,
            confidence=request.confidence,
            macs=whole.macs(whole.full),
            params=whole.params(whole.full),
            bytes=subject.size,
            accuracy=self._accuracy,
            milliseconds=milliseconds,
            machine=machine,
            criterion=Step(request.scoring[0], settings_of(request.scoring[1])),
            repair=Step(repair, settings_of(used)),
            seed=request.seed,
            versions=dict(versions()),
            points=with_dominated(points),
            notes=(*self.notes, *calibration.notes),
        )
        write_frontier(frontier, self.folder / NAME)
        return frontier

    @cached_property
    def _accuracy(self) -> float | None:
        found = self.judge.of_original().accuracy
        return None if found is None else found.top1


def _is_there(point: Point, request: PruneRequest) -> bool:
    """Tell whether the files of a remembered point are as they were."""
    both = request.target.is_file() and request.plan_target.is_file()
    return both and digest(request.target) == point.model.sha256
