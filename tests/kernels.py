"""Kernels between drawn samples, and of classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxprune.passes.criteria import _renyi as renyi
from onnxprune.passes.criteria._target import Target, above

Floats = NDArray[np.float64]


def kernel(seed: int, samples: int = 40, dimension: int = 3, width: float = 2.0) -> Floats:
    values = np.random.default_rng(seed).standard_normal((samples, dimension))
    found: Floats = renyi.gaussian(renyi.squared_distances(values), width)
    return found


def classes(samples: int, count: int) -> Target:
    labels = np.arange(samples) % count
    with np.errstate(divide="ignore"):
        log = np.log(above(renyi.indicator(labels)))
    return Target(log, samples, tuple(np.flatnonzero(labels == c) for c in range(count)))


def log_kernels(variables: Floats, scale: float = 1.0) -> NDArray[np.float32]:
    """Variables of shape (C, N, d); median widths, wider by `scale`."""
    result = []
    for values in variables:
        distances = renyi.squared_distances(values)
        sigma = renyi.median_width(distances) * scale
        result.append(-above(distances) / (2 * sigma**2))
    return np.array(result, np.float32)
