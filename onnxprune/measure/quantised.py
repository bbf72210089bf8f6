"""What quantising a pruned file came to."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from .evaluate import Evaluation
from .latency import Latency


@dataclasses.dataclass(frozen=True)
class Quantised:
    """The pruned model in int8.

    Attributes:
        output: the file, beside the pruned one.
        bytes: of it.
        evaluation: against the original, on held-out samples; None without.
        latency: of the original and of this file, in turns.
    """

    output: Path
    bytes: int
    evaluation: Evaluation | None
    latency: Latency
