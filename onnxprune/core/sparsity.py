"""Zeros among the weights of linear operators: which patterns there are, and who chooses the zeros.

Weights are looked at as matrices (G, q, p): convolution groups, outputs, columns (channel, tap) as in
`core.linear.weight_matrices`. A row is what one output reads.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .contracts import Floats, Ints
from .errors import OnnxPruneError
from .registry import Registry
from .stats import SecondMoments

Bools = NDArray[np.bool_]

_EXPECTED = (
    "the share of every row that becomes zero, above 0 and below 1, or N:M (N of M successive "
    "channels stay, N below M)"
)


@dataclasses.dataclass(frozen=True)
class Pattern:
    """Where zeros go.

    Attributes:
        share: of the weights of every row, rounded down, anywhere in it; 0 for N:M.
        kept, of: N:M, of every M successive input channels at one tap of one output N stay (what
            sparse tensor cores read, for convolutions as for matrices); channels beyond the last
            whole M stay dense.
    """

    share: float = 0.0
    kept: int = 0
    of: int = 0

    @classmethod
    def parse(cls, text: str | float) -> Pattern:
        """Read "0.5", "50%", "2:4" or "4:8".

        Raises:
            OnnxPruneError: if it is none of these.
        """
        written = str(text).strip()
        if match := re.fullmatch(r"(\d+):(\d+)", written):
            kept, of = map(int, match.groups())
            if 0 < kept < of:
                return cls(kept=kept, of=of)
        elif match := re.fullmatch(r"(\d*\.?\d+)(%?)", written):
            share = float(match[1]) / (100 if match[2] else 1)
            if 0 < share < 1:
                return cls(share)
        raise OnnxPruneError(f"--sparsity {text}: expected {_EXPECTED}")

    def __str__(self) -> str:
        """Return it as a user writes it."""
        return f"{self.kept}:{self.of}" if self.of else f"{self.share:g}"

    def blocks(self, columns: int, taps: int) -> Ints:
        """Return the columns of every whole block of N:M: int64, shape (blocks, M)."""
        channels = columns // taps // self.of * self.of
        by_tap = np.arange(channels)[None, :] * taps + np.arange(taps)[:, None]  # (taps, channels)
        return by_tap.reshape(-1, self.of)

    def zeros(self, scores: Floats, taps: int) -> Bools:
        """Return which weights become zero: of every row, or block, those of the lowest scores.

        Args:
            scores: shape (G, q, p); of equal ones the first goes.
            taps: of the kernel, 1 for dense operators.
        """
        result = np.zeros(scores.shape, np.bool_)
        if self.of:
            blocks = self.blocks(scores.shape[-1], taps)
            result[..., blocks] = lowest(scores[..., blocks], self.of - self.kept)
            return result
        return lowest(scores, int(self.share * scores.shape[-1] + 1e-9))


def lowest(scores: Floats, count: int) -> Bools:
    """Mark the `count` lowest along the last axis, of equal ones the first."""
    order = np.argsort(scores, axis=-1, kind="stable")[..., :count]
    result = np.zeros(scores.shape, np.bool_)
    np.put_along_axis(result, order, True, axis=-1)
    return result


@dataclasses.dataclass(frozen=True)
class Layer:
    """One linear operator, as a method sees it.

    Attributes:
        weight: float64, shape (G, q, p).
        taps: of the kernel.
        norm: of what each column reads, root mean square over the samples: float64, shape (G, p); None
            without samples.
        second: of what the columns read; None where no method asked for it.
    """

    weight: Floats
    taps: int
    norm: Floats | None = None
    second: SecondMoments | None = None


class Sparsifier(Protocol):
    """Sets weights to zero; registered in `SPARSIFIERS`. Its settings are the fields of its dataclass."""

    @property
    def needs(self) -> frozenset[str]:
        """Which statistics it reads: "moments" (then `Layer.norm` is there), "second"."""
        ...

    def apply(self, layer: Layer, pattern: Pattern) -> tuple[Floats, Bools]:
        """Return new weights and which of them are zero because of it, both of shape (G, q, p)."""
        ...


SPARSIFIERS: Registry[Sparsifier] = Registry("method")
