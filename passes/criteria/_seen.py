"""Maps of the units of a group, as the operators that read them see them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from onnxprune.core.analysis import Group
from onnxprune.core.contracts import Evidence, Floats
from onnxprune.core.stats import Maps

Singles = NDArray[np.float32]


def seen(group: Group, maps: Maps) -> Iterator[tuple[Singles, tuple[int, ...]]]:
    """Yield per tensor that is read the maps of units, (N, U, k, D), and what shape D flattens."""
    places = {(r.linear.x, r.linear.x_axis): r.index for r in group.readers}
    for place, index in places.items():
        if place in maps.values:
            yield maps.values[place][:, index], maps.positions[place]


def averaged(parts: list[Floats], count: int) -> Floats:
    """Return the mean over tensors of scores per unit; zeros where nothing was seen."""
    return np.mean(parts, axis=0) if parts else np.zeros(count)


def maps_in(evidence: Evidence) -> Maps:
    """Return the maps; the criterion that asks for them has named them among its needs."""
    maps = evidence.required().maps
    assert maps is not None
    return maps
