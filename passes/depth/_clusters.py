"""MPruner's clusters of consecutive points that are alike (arXiv 2408.13482, released code)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def clusters(similarity: Floats, tau: float) -> list[tuple[int, ...]]:
    """Return runs of consecutive points whose similarity to the first of the run is at least `tau`.

    Args:
        similarity: of all pairs, shape (L, L); NaN is unlike anything.
        tau: between 0 and 1.
    """
    found: list[list[int]] = []
    for point in range(len(similarity)):
        if found and similarity[found[-1][0], point] >= tau:
            found[-1].append(point)
        else:
            found.append([point])
    return [tuple(run) for run in found]


def thinned(run: Sequence[int], k: int) -> tuple[int, ...]:
    """Return what goes of a cluster: positions 1, 1 + k, 1 + 2k, ...; the first always stays."""
    return tuple(run[1::k])
