"""Where the windows of convolutions and pools lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..operators import Ints


@dataclass(frozen=True)
class Windows:
    """Windows over spatial axes; every list has one number per axis.

    Attributes:
        strides: from one window to the next.
        dilations: from one position in a window to the next.
        before: pads in front.
        after: pads behind.
        beyond: how far the last window reaches beyond the pads, where lengths are rounded up.
    """

    strides: list[int]
    dilations: list[int]
    before: list[int]
    after: list[int]
    beyond: list[int]

    @property
    def ends(self) -> list[int]:
        """All that is added behind."""
        return [a + b for a, b in zip(self.after, self.beyond, strict=True)]


def windows(
    x: Tensor,
    kernel: Sequence[int],
    auto_pad: str,
    dilations: Ints | None,
    pads: Ints | None,
    strides: Ints | None,
    ceil_mode: int = 0,
) -> Windows:
    """Return the windows over x (batch, channels, space...), by ONNX's attributes."""
    sizes, none = x.shape[2:], [0] * (x.ndim - 2)
    strides, dilations = strides or [1] * len(sizes), dilations or [1] * len(sizes)
    span = spans(kernel, dilations)
    before, after = same_pads(sizes, span, strides, auto_pad, pads)
    beyond = _overhang(sizes, span, strides, before, after) if ceil_mode else none
    return Windows(strides, dilations, before, after, beyond)


def _overhang(
    sizes: Sequence[int], span: Sequence[int], strides: Sequence[int], before: Sequence[int],
    after: Sequence[int],
) -> list[int]:  # fmt: skip
    """Return how far the last window reaches beyond the pads, if lengths are rounded up.

    A window that would begin beyond the input and the pads in front is left out.
    """
    found = []
    for size, width, stride, a, b in zip(sizes, span, strides, before, after, strict=True):
        count = -(-(size + a + b - width) // stride) + 1
        count -= (count - 1) * stride >= size + a
        found.append(max(0, (count - 1) * stride + width - size - a - b))
    return found


def same_pads(
    sizes: Sequence[int],
    spans: Sequence[int],
    strides: Sequence[int],
    auto_pad: str,
    pads: Sequence[int] | None,
) -> tuple[list[int], list[int]]:
    """Return pads before and after each spatial axis.

    Args:
        sizes: of the input, one per spatial axis.
        spans: positions that a kernel covers, holes included.
        strides: of the kernel.
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
        pads: begins, then ends; used with NOTSET.
    """
    if not auto_pad.startswith("SAME"):
        given = list(pads or [0] * 2 * len(sizes)) if auto_pad == "NOTSET" else [0] * 2 * len(sizes)
        return given[: len(sizes)], given[len(sizes) :]
    total = [
        max(0, ((size - 1) // stride) * stride + span - size)
        for size, span, stride in zip(sizes, spans, strides, strict=True)
    ]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return (small, large) if auto_pad == "SAME_UPPER" else (large, small)


def around(begins: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Return pads as PyTorch lists them: last axis first, before and after."""
    return [n for pair in zip(reversed(begins), reversed(ends), strict=True) for n in pair]


def spans(kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """Return how many positions a kernel covers along each axis, holes included."""
    return [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
