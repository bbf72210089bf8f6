"""Kernels between samples of what a group's channels hold, and of what they shall tell about."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from onnxprune.core.analysis import Group, Reader
from onnxprune.core.contracts import Evidence, Floats
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.stats import Maps

from . import _renyi as renyi
from ._members import columns
from ._target import Target, above

Width = Literal["readers", "median", "knn", "paper"]
Labels = Literal["indicator", "rbf"]
About = Literal["auto", "labels", "predictions", "outputs"]
Singles = NDArray[np.float32]
_ROUNDING = 1e-3  # of sums of probabilities


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


def log_kernels(group: Group, evidence: Evidence, maps: Maps, width: Width) -> Singles:
    """Return the log kernel of each unit, above the diagonal: float32, shape (U, T).

    "readers": as far as readers can tell samples apart by a unit (see `_as_read`). The other widths
    look at the map alone, all that readers read of it joined: after a sum, the sum. "median" and
    "knn" (the 5 nearest neighbours) make the kernel of all units together as wide as one of them would
    be by the rule, each wider by the root of their number: else a product of many kernels is the
    identity, and any channels seem to tell everything. "paper" is 5 N^(-1/(4+d)).

    A unit that is the same in all samples, or that no reader reads, has the kernel of ones.
    """
    return _as_read(group, evidence, maps) if width == "readers" else _alone(group, maps, width)


def _as_read(group: Group, evidence: Evidence, maps: Maps) -> Singles:
    """Return kernels of what units add to what their readers write.

        log K_u(i, j) = - mean over readers of  s d_u(i, j) / 2 m,
        d_u = |W_u|^2 |x_u,i - x_u,j|^2,   m = median over (i, j) of sum_u d_u

    d_u is the squared distance of what the unit adds, for weights W_u that know nothing of the maps.
    s is the reader's share of the variance of the sum that it writes into, 1 without a sum: a branch
    that hardly moves its residual stream tells little, whatever it holds. So one unit may be scaled
    up and what reads it down, as ReLU networks allow, and units and groups compare.
    """
    samples = len(maps.outputs)
    total = np.zeros((len(group), samples * (samples - 1) // 2), np.float32)
    readers = [r for r in group.readers if (r.linear.x, r.linear.x_axis) in maps.values]
    for reader in readers:
        norms = np.sqrt((columns(reader, evidence) ** 2).sum(axis=1))
        held = maps.values[reader.linear.x, reader.linear.x_axis] * norms[:, None]
        rows = (held[:, channels].reshape(samples, -1) for channels in reader.index)
        apart = np.stack([above(renyi.squared_distances(row)) for row in rows])
        middle = float(np.median(apart.sum(axis=0)))
        if middle > 0:
            total -= apart * (_share(reader, norms, evidence) / (2 * middle * len(readers)))
    return total


def _share(reader: Reader, norms: Floats, evidence: Evidence) -> float:
    """Return the share of the variance that a reader adds to the sum it writes into; 1 without one."""
    analysis, moments = evidence.analysis, evidence.required().moments
    linear = reader.linear
    stream = moments.get((analysis.sums.get(linear.y, ""), linear.y_axis))
    read = moments.get((linear.x, linear.x_axis))
    if stream is None or read is None:
        return 1.0
    own, total = float(norms**2 @ read.variance), float(stream.variance.sum())
    return min(own / total, 1.0) if total > 0 else 1.0


def _alone(group: Group, maps: Maps, width: Width) -> Singles:
    """Return kernels of the maps of units."""
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


def target_of(
    evidence: Evidence, maps: Maps, about: About, width: Width, labels: Labels = "indicator"
) -> Target:
    """Return the variable that channels shall tell about.

    Labels have the kernel that is 1 where they are equal and 0 elsewhere ("indicator"), or a Gaussian
    kernel of their one-hot code ("rbf"): as wide as "paper" says, else e^-1 between classes.
    "predictions" are the model's own, soft: the kernel is sum_c (p_ic p_jc)^(1/2) of the probabilities
    of classes, which is that of labels where the model is sure. "outputs" is a Gaussian kernel of the
    model's outputs. "auto" takes labels where there are, else predictions where the model gives one
    row of scores a sample, else outputs.

    Raises:
        OnnxPruneError: if labels are asked for and there are none.
    """
    classes = None
    if about in {"auto", "labels"}:
        classes = _labels(evidence, maps, required=about == "labels")
    samples = len(maps.outputs)
    scored = about == "auto" and _gives_scores(evidence, maps)
    if classes is None and (about == "predictions" or scored):
        with np.errstate(divide="ignore"):  # classes may have nothing in common
            return Target(np.log(above(_alike(maps.outputs))), samples)
    if classes is not None and labels == "indicator":
        with np.errstate(divide="ignore"):  # no kernel between classes: its logarithm is -inf
            log = np.log(above(renyi.indicator(classes)))
        members = tuple(np.flatnonzero(classes == c) for c in np.unique(classes))
        return Target(log, samples, members)
    values = maps.outputs.astype(np.float64)
    if classes is not None:
        values = (classes[:, None] == np.unique(classes)[None, :]).astype(np.float64)
    distances = renyi.squared_distances(values)
    if width == "paper":
        sigma = renyi.silverman(samples, values.shape[1])
    else:  # codes of two classes are sqrt 2 apart; most pairs may be of one class
        sigma = 1.0 if classes is not None else renyi.median_width(distances)
    return Target(
        -above(distances) / (2 * sigma**2) if sigma > 0 else 0 * above(distances), samples
    )


def _gives_scores(evidence: Evidence, maps: Maps) -> bool:
    """Tell whether the model's only output is one row of scores a sample."""
    outputs = evidence.analysis.graph.outputs
    return (
        len(outputs) == 1
        and maps.outputs.shape[1] > 1
        and len(outputs[0].type.tensor_type.shape.dim) in {0, 2}
    )


def _alike(scores: Singles) -> Floats:
    """Return sum_c (p_ic p_jc)^(1/2), float64, shape (N, N), of probabilities or else of logits."""
    values = scores.astype(np.float64)
    if (values < 0).any() or np.abs(values.sum(axis=1) - 1).max() > _ROUNDING:
        values = softmax(values, axis=1)
    roots = np.sqrt(values)
    return np.asarray(np.minimum(roots @ roots.T, 1.0))


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
