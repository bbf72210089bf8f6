"""Axes of a model's interface that the user unlocked: what callers see, and may shrink all the same."""

from __future__ import annotations

import dataclasses
from typing import Literal

FaceKind = Literal["input", "output", "vocabulary"]


@dataclasses.dataclass(frozen=True)
class Face:
    """An axis that callers of the model see, and that may shrink all the same.

    Attributes:
        kind: "input" and "output": an axis of a graph input or output; "vocabulary": the axis of a
            table whose positions are the values of integer inputs.
        tensor: the input, the output, or the table.
        axis: which axis of it.
        ids: the graph inputs whose values are positions on a vocabulary.
        keep: the positions that stay, all others go; None: scores decide.
    """

    kind: FaceKind
    tensor: str
    axis: int
    ids: tuple[str, ...] = ()
    keep: tuple[int, ...] | None = None

    def __str__(self) -> str:
        """Write it as `--unlock` takes it."""
        return f"{self.kind}:{self.tensor}@{self.axis}"
