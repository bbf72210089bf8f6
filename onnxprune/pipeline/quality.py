"""How good a model still is without some units: for criteria that cut by themselves."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..core.analysis import Analysis
from ..core.contracts import SURGERIES, Samples
from ..core.runtime import Session
from ..measure.evaluate import evaluate

Ints = NDArray[np.int64]

_SAMPLES = 256  # a share of answers to half a percent


class Quality:
    """Gives the share of samples answered rightly, or as before, without some units.

    Models that do not classify are judged by 1 - relative error of their worst output.
    """

    def __init__(
        self, analysis: Analysis, samples: Samples, labels: str | None, provider: str
    ) -> None:
        self.analysis, self.labels, self.provider = analysis, labels, provider
        self.samples = samples.part(0, _SAMPLES)

    def __call__(self, units: Ints) -> float:
        """Return the quality without these units (global numbers), at most 1."""
        mask = self.analysis.mask(units)
        if mask.emptied():
            return 0.0  # nothing would be left of some axis
        pruned = SURGERIES["channels"](mask)
        found = evaluate(
            Session(pruned, provider=self.provider), self.samples,
            labels=self.labels, reference=self._reference,
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
        return Session(self.analysis.graph, provider=self.provider)
