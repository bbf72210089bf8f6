"""ThiNet: channels that the next operator hardly misses go (Luo et al. 2017, arXiv 1707.06342).

x_c is what channel c adds to an output of the operator that reads it. Greedily the set T to discard
grows by the channel that makes E (sum of x_c over T)^2 least. ThiNet samples outputs and positions;
here the mean is over all outputs and all sampled positions at once, in closed form:

    G_cd = sum over outputs o of  W[o, c] M[c, d] W[o, d]^T,      E (sum_T x_c)^2 = 1_T^T G 1_T

M are the (uncentred) second moments of what the operator reads. Its least-squares scaling of what
stays is the repair `scale`.
"""

from __future__ import annotations

import numpy as np

from onnxprune.core.analysis import Group, Reader
from onnxprune.core.contracts import CRITERIA, Evidence, Floats, PerGroup
from onnxprune.core.linear import weight_matrices
from onnxprune.core.stats import SecondMoments


class ThiNet(PerGroup):
    """Scores by when a unit joins the set to discard."""

    needs = frozenset({"second"})
    comparable = True
    zero_is_least = True

    def score(self, group: Group, evidence: Evidence) -> Floats:
        """Return the share of the readers' energy lost with each unit: float64, shape (U,)."""
        second = evidence.required().second
        total = np.zeros((len(group), len(group)))
        for reader in group.readers:
            if reader.linear.node in second:
                products = contributions(reader, evidence, second[reader.linear.node])
                energy = float(products.sum())
                total += products / energy if energy > 0 else 0.0
        return _discarded(total)


def contributions(reader: Reader, evidence: Evidence, second: SecondMoments) -> Floats:
    """Return G over the units of a group: float64, shape (U, U), in squared units of the output."""
    weights = weight_matrices(evidence.weight(reader.linear.weight), reader.linear)  # (G, q, p)
    channels = reader.channels
    each = channels // len(weights)
    joint = np.zeros((channels, channels))
    for number, (weight, mean, covariance) in enumerate(
        zip(weights, second.mean, second.covariance, strict=True)
    ):
        moments = covariance + np.outer(mean, mean)
        product = (weight.T @ weight) * moments  # over outputs, then over taps
        inside = product.reshape(each, -1, each, product.shape[1] // each).sum(axis=(1, 3))
        joint[number * each : (number + 1) * each, number * each : (number + 1) * each] = inside
    cells = joint[reader.index[:, None, :, None], reader.index[None, :, None, :]]
    return np.asarray(cells.sum(axis=(2, 3)))


def _discarded(products: Floats) -> Floats:
    """Return by how much 1^T G 1 over the set to discard grows as each unit joins it, made to rise."""
    count = len(products)
    scores, crossed, least = np.zeros(count), np.zeros(count), 0.0
    is_open = np.ones(count, np.bool_)
    for _ in range(count):
        joined = np.where(is_open, 2 * crossed + np.diag(products), np.inf)
        unit = int(np.argmin(joined))
        least = max(least, float(joined[unit]))
        is_open[unit] = False
        scores[unit] = least
        crossed += products[unit]
    return scores


CRITERIA.register("thinet")(ThiNet())
