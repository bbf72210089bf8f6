"""What a unit owns of the weights, and how the scores of coupled weights become one.

The coupled-group rule: every weight that a group touches ("member") first scores the units by
itself; the scores are divided by their mean over the group, so that members count equally whatever
their size and scale; the score of a unit is the mean over members. A depthwise weight is a member
like any other: it writes the channels that it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from onnxprune.core.analysis import Group, Member, Reader, Role, as_matrix
from onnxprune.core.contracts import Evidence, Floats
from onnxprune.core.linear import weight_matrices
from onnxprune.core.stats import Moments


def chosen(group: Group, *roles: Role) -> list[Member]:
    """Return the members with one of these roles; all members if none has."""
    return [m for m in group.members if m.role in roles] or list(group.members)


def owned(member: Member, evidence: Evidence) -> Floats:
    """Return the weights each unit owns of a member: float64, shape (U, k * rest)."""
    rows = as_matrix(evidence.weight(member.tensor), member.axis)
    return rows[member.index].reshape(len(member.index), -1)


def columns(reader: Reader, evidence: Evidence) -> Floats:
    """Return the weights that read each input channel of a linear operator, whatever its groups.

    Returns:
        float64, shape (C, n): row c holds W[:, c] of the dense operator; with convolution groups
        the rows of the other groups, which are zero, are left out (n = outputs / groups * taps).
    """
    matrices = weight_matrices(evidence.weight(reader.linear.weight), reader.linear)  # (G, q, p)
    groups, outputs, _ = matrices.shape
    each = matrices.reshape(groups, outputs, reader.channels // groups, -1)
    return each.swapaxes(1, 2).reshape(reader.channels, -1)


def observed(group: Group, evidence: Evidence) -> list[tuple[Reader, Moments]]:
    """Return the readers of a group whose input calibration has seen, with its moments."""
    moments = evidence.required().moments
    keyed = [(r, (r.linear.x, r.linear.x_axis)) for r in group.readers]
    return [(reader, moments[key]) for reader, key in keyed if key in moments]


def relative(scores: Floats) -> Floats:
    """Return scores divided by their mean; all zero stays all zero."""
    mean = float(scores.mean())
    return scores / mean if mean > 0 else scores


def coupled(scores: Iterable[Floats], normalise: Callable[[Floats], Floats] = relative) -> Floats:
    """Combine the scores that members give, each of shape (U,), into one by the mean."""
    mean: Floats = np.mean([normalise(each) for each in scores], axis=0)
    return mean
