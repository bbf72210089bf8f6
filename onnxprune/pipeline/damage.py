"""What a removal does to the outputs, measured: for criteria whose losses are local ones."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..core.contracts import REPAIRS, SURGERIES, Evidence, RepairTask, Samples
from ..core.graph import Array
from ..core.interface import interface_of
from ..core.runtime import Session

Ints = NDArray[np.int64]

_SAMPLES = 64  # an error of the outputs to a few per cent of itself
_BATCH = 32
_BYTES = 256 << 20  # of the original's outputs, which are held
_MOST = 1e3  # errors beyond, and values that overflow, count alike


class Damage:
    """Gives the squared relative error of the outputs without some units.

    Whatever reads them is refitted by its second moments, where there are any.
    """

    def __init__(self, evidence: Evidence, samples: Samples, provider: str) -> None:
        self.evidence, self.samples, self.provider = evidence, samples, provider

    def __call__(self, units: Ints) -> float | None:
        """Return the mean over outputs of |y - r|^2 / |r|^2, r the original's.

        None where the units are all there is of some axis, or belong to what callers see: then
        there is nothing to compare with.
        """
        mask = self.evidence.analysis.mask(units)
        if mask.emptied() or interface_of(mask).parts:
            return None
        pruned = SURGERIES["channels"](mask)
        if self.evidence.required().second:
            task = RepairTask(mask, pruned, self.evidence, None)
            pruned = REPAIRS["least-squares"].apply(task)
        session = Session(pruned, provider=self.provider)
        totals = np.zeros((len(session.outputs), 2))
        for feeds, expected in self._reference:
            found = session.run(feeds)
            totals += [_distance(found[name], expected[name]) for name in session.outputs]
        ratios = [error / size for error, size in totals if size > 0]
        return float(min(np.nan_to_num(np.mean(ratios), nan=_MOST), _MOST)) if ratios else None

    @cached_property
    def _reference(self) -> list[tuple[dict[str, Array], dict[str, Array]]]:
        """Return feeds and the original's outputs, a few samples a run."""
        session = Session(self.evidence.analysis.graph, provider=self.provider)
        size = self.samples.batch or 1
        each = sum(value.nbytes for value in session.run(self.samples.read(0, size)).values())
        runs = int(np.clip(_BYTES / max(each, 1), 1, max(_SAMPLES // size, 1)))
        count = min(runs * size, self.samples.count)
        batches = self.samples.batches(self.samples.batch or min(_BATCH, count), 0, count)
        return [(feeds, session.run(feeds)) for feeds in batches]


@np.errstate(all="ignore")  # what is not finite counts as the most
def _distance(found: Array, expected: Array) -> tuple[float, float]:
    """Return |found - expected|^2 and |expected|^2; zeros where values are not real numbers."""
    if expected.dtype.kind != "f" or found.shape != expected.shape:
        return 0.0, 0.0
    exact = expected.astype(np.float64)
    return float(((found - exact) ** 2).sum()), float((exact**2).sum())
