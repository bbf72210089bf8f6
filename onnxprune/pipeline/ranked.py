"""Rankings of what the user's lists leave open; what goes by them needs no score."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from ..core.contracts import Criterion, Evidence, Progress, Ranking
from ..selection.widths import listed


@np.errstate(all="ignore")  # scores that are not finite are refused, with the weight behind them
def rankings_of(criterion: Criterion, evidence: Evidence, progress: Progress) -> list[Ranking]:
    """Let a criterion rank every group that is still open; units that go by a list rank lowest."""
    analysis, goes = evidence.analysis, listed(evidence.analysis)
    if all(going is None for going in goes):
        return criterion.rank(evidence, progress)
    left = [group for group, going in zip(analysis.groups, goes, strict=True) if going is None]
    ranked: Iterator[Ranking] = iter(())
    if left:
        part = dataclasses.replace(analysis, groups=left)
        ranked = iter(criterion.rank(dataclasses.replace(evidence, analysis=part), progress))
    return [
        next(ranked) if going is None else Ranking((~going).astype(np.float64), ~going)
        for going in goes
    ]
