"""Random: the baseline that every other criterion must beat."""

from __future__ import annotations

import zlib

import numpy as np

from onnxprune.core.analysis import Group
from onnxprune.core.contracts import CRITERIA, Evidence, Floats, PerGroup


class Random(PerGroup):
    """Draws scores uniformly; the same seed gives the same scores in every run.

    Comparable, so that a global ranking removes units anywhere with equal chance.
    """

    needs = frozenset[str]()
    comparable = True
    zero_is_least = False

    def score(self, group: Group, evidence: Evidence) -> Floats:
        """Return numbers in [0, 1): float64, shape (U,); they differ between groups."""
        # two groups can share a name (heads and head dimensions), never a first unit
        key = [evidence.seed, zlib.crc32(group.name.encode()), int(group.units[0])]
        return np.random.default_rng(key).random(len(group))


CRITERIA.register("random")(Random())
