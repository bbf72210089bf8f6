"""How good a model still is without some units: for criteria that cut by themselves."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..core.contracts import REPAIRS, SURGERIES, Evidence, Repair, RepairTask, Samples
from ..core.runtime import Session
from ..measure.evaluate import evaluate

Ints = NDArray[np.int64]

_SAMPLES = 256  # a share of answers to half a percent
_CLOSED = "least-squares"


@dataclasses.dataclass(frozen=True)
class Quality:
    """Gives the share of samples answered rightly, or as before, without some units.

    What is judged is refitted as the run's repair will do it, where that only reads statistics; a
    repair that runs the model takes too long for each cut, and least squares stands in, as far as
    the statistics at hand reach (the mean of what is lost, at least). Models that do not classify
    are judged by 1 - relative error of their worst output.

    Attributes:
        evidence: what the criterion looks at.
        samples: of the calibration; the first are judged.
        labels: their key, or None.
        provider: of the runs.
        repair: of the run.
        ridge: its damping; None: its own.
    """

    evidence: Evidence
    samples: Samples
    labels: str | None
    provider: str
    repair: Repair
    ridge: float | None

    def __call__(self, units: Ints) -> float:
        """Return the quality without these units (global numbers), at most 1."""
        mask = self.evidence.analysis.mask(units)
        if mask.emptied():
            return 0.0  # nothing would be left of some axis
        repair = REPAIRS[_CLOSED] if self.repair.needs_samples else self.repair
        pruned = SURGERIES["channels"](mask)
        task = RepairTask(mask, pruned, self.evidence, None, self.ridge)
        found = evaluate(
            Session(repair.apply(task), provider=self.provider),
            self.samples.part(0, _SAMPLES), labels=self.labels, reference=self._reference,
        )  # fmt: skip
        if found.accuracy is not None:
            return found.accuracy.top1
        if found.agreement is not None:
            return found.agreement
        return 1.0 - min(found.error or 0.0, 1.0)

    @cached_property
    def _reference(self) -> Session | None:
        if self.labels is not None:
            return None
        return Session(self.evidence.analysis.graph, provider=self.provider)
