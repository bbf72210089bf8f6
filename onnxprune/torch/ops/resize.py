"""Resize and Upsample: one axis after the other, each a weighted sum of neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..operators import Fixed, Floats, Ints, torch_op

_TAPS = {"nearest": 1, "linear": 2, "cubic": 4}


@torch_op("Upsample")
def upsample(x: Tensor, scales: Floats, *, mode: str = "nearest") -> Tensor:
    """Y is x with more pixels, whose corner stays (opset 7 and 9)."""
    return resize_from_corner(x, scales, mode=mode)


@torch_op("Resize")
def resize_from_corner(x: Tensor, scales: Floats, *, mode: str = "nearest") -> Tensor:
    """Y is x with more or fewer pixels, whose corner stays (opset 10)."""
    return resize(
        x,
        scales=scales,
        mode=mode,
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


@torch_op("Resize", since=11, ignores=("extrapolation_value",), only={"antialias": (0,)})
def resize(
    x: Tensor,
    roi: Fixed | None = None,
    scales: Floats | None = None,
    sizes: Ints | None = None,
    *,
    axes: Ints | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """Y resamples x to given sizes, or by given scales."""
    del roi  # of tf_crop_and_resize alone
    axes = [a % x.ndim for a in axes] if axes else list(range(x.ndim))
    lengths = [x.shape[a] for a in axes]
    goals, factors = _goals(lengths, scales, sizes, keep_aspect_ratio_policy)
    place = _PLACES[coordinate_transformation_mode]
    for axis, goal, factor in zip(axes, goals, factors, strict=True):
        if goal == x.shape[axis] and factor == 1:
            continue
        out = torch.arange(goal, dtype=torch.float64, device=x.device)
        points = place(out, x.shape[axis], goal, factor)
        if mode == "nearest":
            index = _ROUND[nearest_mode](points).clamp(0, x.shape[axis] - 1).long()
            x = x.index_select(axis, index)
        else:
            x = _mixed(x, axis, points, mode, cubic_coeff_a, bool(exclude_outside))
    return x


def _goals(
    lengths: Sequence[int], scales: list[float] | None, sizes: list[int] | None, policy: str
) -> tuple[list[int], list[float]]:
    """Return new lengths, and the scale of each axis that coordinates are computed with."""
    if not sizes:
        given = scales or [1.0] * len(lengths)
        return [int(n * s) for n, s in zip(lengths, given, strict=True)], list(given)
    factors = [goal / n for goal, n in zip(sizes, lengths, strict=True)]
    if policy == "stretch":
        return list(sizes), factors
    factor = min(factors) if policy == "not_larger" else max(factors)
    return [int(n * factor + 0.5) for n in lengths], [factor] * len(lengths)


def _half_pixel(out: Tensor, size: int, goal: int, scale: float) -> Tensor:
    del size, goal
    return (out + 0.5) / scale - 0.5


def _half_pixel_symmetric(out: Tensor, size: int, goal: int, scale: float) -> Tensor:
    shift = size / 2 * (1 - goal / (scale * size))
    return shift + (out + 0.5) / scale - 0.5


def _pytorch_half_pixel(out: Tensor, size: int, goal: int, scale: float) -> Tensor:
    return _half_pixel(out, size, goal, scale) if goal > 1 else torch.zeros_like(out)


def _align_corners(out: Tensor, size: int, goal: int, scale: float) -> Tensor:
    del scale
    return out * (size - 1) / (goal - 1) if goal > 1 else torch.zeros_like(out)


def _asymmetric(out: Tensor, size: int, goal: int, scale: float) -> Tensor:
    del size, goal
    return out / scale


def _half_pixel_of_nearest(out: Tensor, size: int, goal: int, scale: float) -> Tensor:
    del size, goal
    return (out + 0.5) / scale


_PLACES = {  # where in x a position of y is
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "align_corners": _align_corners,
    "asymmetric": _asymmetric,
    "tf_half_pixel_for_nn": _half_pixel_of_nearest,
}
_ROUND: dict[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda x: torch.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: torch.floor(x + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


def _mixed(
    x: Tensor, axis: int, points: Tensor, mode: str, a: float, exclude_outside: bool
) -> Tensor:
    """Return sums of the neighbours of `points` along an axis; the border stands for what is outside."""
    taps = _TAPS[mode]
    first = torch.floor(points).long() - (taps // 2 - 1)
    part = (points - torch.floor(points)).unsqueeze(-1)
    offsets = torch.arange(taps, device=x.device)
    weights = _linear(part) if mode == "linear" else _cubic(part, a)
    index = first.unsqueeze(-1) + offsets
    if exclude_outside:
        weights = weights * ((index >= 0) & (index < x.shape[axis]))
        weights = weights / weights.sum(-1, keepdim=True)
    index = index.clamp(0, x.shape[axis] - 1)
    picked = x.index_select(axis, index.reshape(-1))
    picked = picked.reshape(*x.shape[:axis], len(points), taps, *x.shape[axis + 1 :])
    weights = weights.to(x.dtype).reshape(len(points), taps, *[1] * (x.ndim - axis - 1))
    return torch.sum(picked * weights, axis + 1)


def _linear(part: Tensor) -> Tensor:
    return torch.cat([1 - part, part], -1)


def _cubic(t: Tensor, a: float) -> Tensor:
    """Return the four weights of a cubic convolution (Keys 1981)."""
    far, near = 1 + t, 1 - t
    last = 2 - t
    outer = [a * (d * (d * (d - 5) + 8) - 4) for d in (far, last)]
    inner = [((a + 2) * d - (a + 3)) * d * d + 1 for d in (t, near)]
    return torch.cat([outer[0], *inner, outer[1]], -1)
