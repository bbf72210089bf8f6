"""CHIP: channels that the others can stand in for go (Sui et al. 2021, arXiv 2110.13981).

    s_u = |A|_* - |A without the rows of u|_*,    A = maps of all units of a sample, one row per channel

The nuclear norm sums singular values, the roots of the eigenvalues of A A^T: removing rows of A
removes rows and columns of that. The mean over samples and over the tensors that are read.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from onnxprune.core.analysis import Group
from onnxprune.core.contracts import CRITERIA, Evidence, Floats, PerGroup

from ._seen import Singles, averaged, maps_in, seen

_ROUNDING = 1e-6  # roots of eigenvalues are exact to the root of the machine precision


@dataclasses.dataclass(frozen=True)
class Chip(PerGroup):
    """Scores by channel independence.

    Attributes:
        samples: whose maps are decomposed, at most; each costs U eigenproblems of size U k.
    """

    needs = frozenset({"maps"})
    comparable = False
    zero_is_least = True
    samples: int = 8

    def score(self, group: Group, evidence: Evidence) -> Floats:
        """Return how much of the nuclear norm goes with a unit: float64, shape (U,)."""
        parts = [
            np.mean([_independence(sample) for sample in x[: self.samples]], axis=0)
            for x, _ in seen(group, maps_in(evidence))
        ]
        return averaged(parts, len(group))


def _independence(maps: Singles) -> Floats:
    """Return the fall of the nuclear norm without each unit; `maps` is (U, k, D)."""
    units, each, _ = maps.shape
    rows = maps.reshape(units * each, -1).astype(np.float64)
    products = rows @ rows.T
    whole = _nuclear(products)
    falls = np.empty(units)
    for unit in range(units):
        left = np.delete(np.arange(len(products)), np.arange(unit * each, (unit + 1) * each))
        falls[unit] = whole - _nuclear(products[np.ix_(left, left)])
    return np.where(falls > _ROUNDING * whole, falls, 0.0)


def _nuclear(products: Floats) -> float:
    return (
        float(np.sqrt(np.maximum(np.linalg.eigvalsh(products), 0.0)).sum())
        if len(products)
        else 0.0
    )


CRITERIA.register("chip")(Chip())
