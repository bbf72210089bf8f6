"""What a runner brings back, checked: it may come from another machine."""

from __future__ import annotations

import pydantic
from pydantic.dataclasses import dataclass

from ..core.errors import OnnxPruneError

_FINITE = pydantic.ConfigDict(allow_inf_nan=False)


@dataclass(frozen=True, config=_FINITE)
class Machine:
    """What the figures depend on besides the models."""

    processor: str
    cores: int | None
    system: str
    python: str
    numpy: str
    onnxruntime: str


@dataclass(frozen=True, config=_FINITE)
class Alone:
    """One model in a process of its own.

    Attributes:
        load: milliseconds to load it.
        memory: bytes that loading and running it added to the peak; None where the system does not say.
        provider: that ran it.
    """

    load: float
    memory: int | None
    provider: str


@dataclass(frozen=True, config=_FINITE)
class Cell:
    """Times of all models.

    Attributes:
        times: milliseconds, [life][round][model].
        provider: that ran them.
    """

    times: list[list[list[float]]]
    provider: str


@dataclass(frozen=True, config=_FINITE)
class NodeTime:
    """One node as it really ran.

    Attributes:
        name: after onnxruntime's fusions.
        op: its kernel.
        provider: that ran it.
        us: microseconds per run, lower quartile.
    """

    name: str
    op: str
    provider: str
    us: float


@dataclass(frozen=True, config=_FINITE)
class JobModel:
    """A model by the name of its file."""

    name: str


@dataclass(frozen=True, config=_FINITE)
class JobCell:
    """Numbers of the models timed in turns, samples in a run, and threads; 0: onnxruntime's choice."""

    models: list[int]
    batch: int
    threads: int


@dataclass(frozen=True, config=_FINITE)
class Job:
    """What was asked of the runner."""

    models: list[JobModel]
    cells: list[JobCell]
    provider: str
    profile: bool
    alone: bool


@dataclass(frozen=True, config=_FINITE)
class Result:
    """All that a runner measured; models and cells in the order of the job."""

    job: Job
    machine: Machine
    models: list[Alone]  # none if not asked for
    cells: list[Cell]
    profiles: list[list[NodeTime]]  # none if not asked for

    @property
    def fits(self) -> bool:
        """Whether there is one of each that the job asks for."""
        count = len(self.job.models)
        sizes = [
            {len(row) for life in cell.times for row in life} == {len(asked.models)}
            for asked, cell in zip(self.job.cells, self.cells, strict=False)
        ]
        return (
            len(self.models) == count * self.job.alone
            and len(self.profiles) == count * self.job.profile
            and len(self.cells) == len(self.job.cells) > 0
            and all(sizes)
        )


def read_result(text: bytes, names: list[str]) -> Result:
    """Read what a runner wrote of models with these file names.

    Raises:
        OnnxPruneError: if it is not that, or of other models.
    """
    try:
        found = pydantic.TypeAdapter(Result).validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise OnnxPruneError(f"no result of a bench: {where}: {first['msg']}") from error
    if (timed := [model.name for model in found.job.models]) != names:
        raise OnnxPruneError(f"this result is of {timed}, expected {names}: give the same models")
    if not found.fits:
        raise OnnxPruneError("no result of a bench: its parts do not fit together; run it again")
    return found
