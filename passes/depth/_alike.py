"""Similarity of points, as the scores read it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxprune.core.alignment import Shifts
from onnxprune.core.depth import DepthEvidence
from onnxprune.core.errors import InternalError

Form = Literal["debiased", "biased", "features"]
FORMS: dict[Form, str] = {"debiased": "cka", "biased": "cka-biased", "features": "cka-features"}


def similarity(evidence: DepthEvidence) -> NDArray[np.float64]:
    """Return the CKA of all pairs of points: shape (L, L); NaN where it cannot be told."""
    alignment = evidence.required().alignment
    if alignment is None or alignment.points != evidence.points:
        raise InternalError("the alignment is not of the points of the blocks")
    return alignment.similarity


def shifts(evidence: DepthEvidence) -> Shifts:
    """Return what lies between both ends of every block."""
    found = evidence.required().shifts
    if found is None or len(found.cosine) != len(evidence.ends):
        raise InternalError("the shifts are not of the blocks")
    return found
