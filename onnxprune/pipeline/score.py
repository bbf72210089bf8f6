"""Scores of any number of criteria from one calibration run, written down; nothing is removed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.analysis import Analysis, Group
from ..core.configured import settings_of
from ..core.contracts import Criterion, Progress, Ranking, silent
from ..core.errors import OnnxPruneError
from ..files.store import digest
from ..measure.clock import Clock
from ..plan import (
    DataId,
    ModelId,
    RankedGroup,
    Scored,
    ScoredGroup,
    Scores,
    to_ranges,
    versions,
    write_scores,
)
from ..selection.budget import Options
from ..show.overview import overview
from .decide import gathered, rank, refuse_without_samples
from .request import PruneRequest
from .samples import Data
from .study import Subject, study


@dataclasses.dataclass(frozen=True)
class ScoreRequest:
    """One scoring, as asked for.

    Attributes:
        model: the ONNX file.
        output: where the scores go; None: beside the model, as `<name>.scores.json`.
        criterion: what scores the units: texts such as "l1", "cmi:alpha=2", or several with commas
            between them; none: what `prune` would take.
        data, preprocess, labels, samples, unlock, rows, seed, work, provider, progress: as in `prune`.
    """

    model: Path | str
    output: Path | str | None = None
    _: dataclasses.KW_ONLY
    criterion: tuple[str, ...] | str = ()
    data: Data | None = None
    preprocess: str | Mapping[str, Any] | None = None
    labels: str | None = None
    samples: int = 512
    unlock: tuple[str, ...] | str = ()
    rows: int = 32
    seed: int = 0
    work: Path | str | None = None
    provider: str = "cpu"
    progress: Progress = dataclasses.field(default=silent, repr=False, compare=False)

    @property
    def target(self) -> Path:
        """Where the scores go."""
        source = Path(self.model)
        beside = source.with_name(f"{source.stem}.scores.json")
        return beside if self.output is None else Path(self.output)

    def parts(self) -> list[PruneRequest]:
        """Return what each criterion is asked: what comes before the cut in a prune by it.

        Raises:
            OnnxPruneError: for an unknown name, a number out of its range, or a criterion named twice.
        """
        texts = (self.criterion,) if isinstance(self.criterion, str) else self.criterion
        names = [name for text in texts for name in separated(text)]
        asked = [self._part(name) for name in names or (None,)]
        seen: list[tuple[str, Criterion]] = []
        for part in asked:
            if part.scoring in seen:
                raise OnnxPruneError(
                    f"--criterion '{part.scoring[0]}' is named twice: leave one out"
                )
            seen.append(part.scoring)
        return asked

    def _part(self, criterion: str | None) -> PruneRequest:
        shared = {field.name for field in dataclasses.fields(self)} - {"criterion", "output"}
        given = {name: getattr(self, name) for name in shared}
        return _Part(**given, criterion=criterion, repair="none", dry_run=True)


class _Part(PruneRequest):
    """A prune up to where a budget would be asked for."""

    @property
    def needs_budget(self) -> bool:
        return False


def separated(text: str) -> list[str]:
    """Part criteria that a text names: what says "setting=value" goes with the name before it.

    >>> separated("cmi:alpha=2,cut=scree,l1"), separated("")
    (['cmi:alpha=2,cut=scree', 'l1'], [])
    """
    found: list[str] = []
    for piece in filter(None, map(str.strip, text.split(","))):
        if found and "=" in piece.partition(":")[0]:
            found[-1] += f",{piece}"
        else:
            found.append(piece)
    return found


def score(request: ScoreRequest) -> Scores:
    """Score all units by all criteria and write the file.

    Raises:
        OnnxPruneError: whatever the user can mend, in one line; then nothing was written.
    """
    parts, clock, target = request.parts(), Clock(request.progress), request.target
    _refuse_target(request)
    subject = study(parts[0], clock)
    needs: frozenset[str] = frozenset()
    for part in parts:
        name, criterion = part.scoring
        refuse_without_samples(
            "criterion", name, criterion, subject, "choose l1, l2, fpgm or random"
        )
        needs |= criterion.needs
    evidence = gathered(parts[0], subject, needs, clock)
    found = [rank(part, subject, evidence, clock) for part in parts]
    criteria = [part.scoring for part in parts]
    scores = _written_down(request, parts[0], subject, criteria, found)
    with clock("write"):
        write_scores(scores, target)
    return scores


def _refuse_target(request: ScoreRequest) -> None:
    """Say at once what writing would say at the end."""
    source, target = Path(request.model), request.target
    if target.exists() and source.exists() and target.samefile(source):
        raise OnnxPruneError(f"the output '{target}' is the model: choose another path")
    if not target.parent.is_dir():
        raise OnnxPruneError(
            f"cannot write '{target}': there is no folder '{target.parent}'; create it first"
        )


def _written_down(
    request: ScoreRequest,
    part: PruneRequest,
    subject: Subject,
    criteria: Sequence[tuple[str, Criterion]],
    rankings: Sequence[Sequence[Ranking]],
) -> Scores:
    samples = subject.calibration
    return Scores(
        model=ModelId(subject.path.name, digest(subject.path)),
        groups=tuple(_groups(subject)),
        criteria=tuple(
            Scored(name, settings_of(used), used.comparable, tuple(map(_ranked, ranked)))
            for (name, used), ranked in zip(criteria, rankings, strict=True)
        ),
        data=None if samples is None else DataId(samples.digest, samples.count, samples.random),
        labels=request.labels,
        rows=request.rows,
        seed=request.seed,
        unlocked=tuple(f"{unlock.kind}:{unlock.name}" for unlock in part.unlocked),
        versions=dict(versions()),
        notes=samples.notes if samples else (),
    )


def _groups(subject: Subject) -> Iterator[ScoredGroup]:
    analysis: Analysis = subject.analysis
    view = overview(subject.path, analysis, subject.cost, subject.feeds, Options(), blocks=False)
    for group, seen in zip(analysis.groups, view.groups, strict=True):
        yield ScoredGroup(group.name, seen.kind, group.width, _units(group))


def _units(group: Group) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Return the positions of every unit on the axis of the first member."""
    return tuple(to_ranges(np.unique(owned)) for owned in group.members[0].index)


def _ranked(ranking: Ranking) -> RankedGroup:
    kept = None if ranking.keep is None else to_ranges(np.flatnonzero(ranking.keep))
    return RankedGroup(
        scores=tuple(map(float, ranking.scores)),
        kept=kept,
        curves={name: tuple(map(float, curve)) for name, curve in ranking.curves.items()},
        notes=ranking.notes,
    )
