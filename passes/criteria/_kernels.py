"""Kernels between samples of what a group's channels hold, and of what they shall tell about."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxprune.core.analysis import Group
from onnxprune.core.contracts import Evidence
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.stats import Maps

from . import _renyi as renyi
from ._ordering import Target, above

Width = Literal["median", "neighbours", "paper"]
About = Literal["auto", "labels", "predictions", "outputs"]
Singles = NDArray[np.float32]


def maps_of(evidence: Evidence) -> Maps:
    """Return the maps.

    Raises:
        OnnxPruneError: if there are no samples, or too few.
    """
    maps = evidence.required().maps
    if maps is None or len(maps.outputs) < 4:
        found = 0 if maps is None else len(maps.outputs)
        raise OnnxPruneError(f"kernels need at least 4 samples, found {found}: give more --data")
    return maps


def log_kernels(group: Group, maps: Maps, width: Width) -> Singles:
    """Return the log kernel of each unit, above the diagonal: float32, shape (U, T).

    The map of a unit is all that its readers read of it, joined: after a sum, the sum. With the
    widths "median" and "neighbours" the kernel of all units together is as wide as one of them
    would be by the rule: each is wider by the root of their number. Otherwise a product of many
    kernels is the identity, and any channels seem to tell everything. "paper" is 5 N^(-1/(4+d)).

    A unit that is the same in all samples, or that no reader reads, has the kernel of ones.
    """
    samples, units = len(maps.outputs), len(group)
    distances = np.zeros((units, samples, samples), np.float32)
    dimension = 0
    places = {(r.linear.x, r.linear.x_axis): r.index for r in group.readers}
    for place, index in places.items():
        if place in maps.values:
            held = maps.values[place]
            dimension += index.shape[1] * held.shape[2]
            for unit, positions in enumerate(index):
                values = held[:, positions].reshape(samples, -1).astype(np.float64)
                distances[unit] += renyi.squared_distances(values)
    result = np.empty((units, samples * (samples - 1) // 2), np.float32)
    for unit, squared in enumerate(distances):
        sigma = _sigma(squared, width, units, dimension)
        result[unit] = -above(squared) / (2 * sigma**2) if sigma > 0 else 0.0
    return result


def _sigma(squared: NDArray[np.float32], width: Width, units: int, dimension: int) -> float:
    if width == "paper":
        return renyi.silverman(len(squared), dimension)
    rule = renyi.median_width if width == "median" else renyi.neighbour_width
    return rule(squared.astype(np.float64)) * float(np.sqrt(units))


def target_of(evidence: Evidence, maps: Maps, about: About, width: Width) -> Target:
    """Return the variable that channels shall tell about.

    Classes (labels, or the model's own predictions) have the kernel that is 1 where they are equal
    and 0 elsewhere; with the "paper" width, a Gaussian kernel of their one-hot code. "outputs" is a
    Gaussian kernel of the model's outputs. "auto" takes labels where there are, else outputs.

    Raises:
        OnnxPruneError: if labels are asked for and there are none.
    """
    classes = None
    if about == "predictions":
        classes = maps.outputs.argmax(axis=1)
    elif about != "outputs":
        classes = _labels(evidence, maps, required=about == "labels")
    samples = len(maps.outputs)
    if classes is not None and width != "paper":
        with np.errstate(divide="ignore"):  # no kernel between classes: its logarithm is -inf
            log = np.log(above(renyi.indicator(classes)))
        members = tuple(np.flatnonzero(classes == c) for c in np.unique(classes))
        return Target(log, samples, members)
    values = maps.outputs.astype(np.float64)
    if classes is not None:
        values = (classes[:, None] == np.unique(classes)[None, :]).astype(np.float64)
    distances = renyi.squared_distances(values)
    sigma = (
        renyi.silverman(samples, values.shape[1])
        if width == "paper"
        else renyi.median_width(distances)
    )
    return Target(
        -above(distances) / (2 * sigma**2) if sigma > 0 else 0 * above(distances), samples
    )


def _labels(evidence: Evidence, maps: Maps, *, required: bool) -> NDArray[np.int64] | None:
    """Return class numbers, shape (N,): the labels named, or the only array that can be classes."""
    known = {name: array.reshape(len(array), -1) for name, array in maps.labels.items()}
    names = (
        [evidence.labels]
        if evidence.labels
        else [n for n, a in known.items() if a.dtype.kind in "iub"]
    )
    if len(names) != 1 or names[0] not in known:
        if required:
            raise OnnxPruneError("target 'labels' needs labels: give --labels KEY with --data")
        return None
    array = known[names[0]]
    found = array[:, 0] if array.shape[1] == 1 else array.argmax(axis=1)
    return np.unique(found, return_inverse=True)[1].astype(np.int64)


def informative(logs: Singles) -> NDArray[np.bool_]:
    """Tell which kernels are not all ones: shape (U,)."""
    return np.asarray((logs != 0).any(axis=1))
