"""Reshape, Transpose and their kin: positions move, nothing is computed."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..operators import Ints, Number, torch_op
from .unary import scalar
from .windows import around


@torch_op("Reshape")
def reshape(x: Tensor, shape: Ints, *, allowzero: int = 0) -> Tensor:
    """Y is x in another shape; 0 copies a length, -1 is what is left."""
    if allowzero or 0 not in shape:
        return x.reshape(shape)
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(shape)])


@torch_op("Flatten")
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """Y is a matrix: axes before `axis`, and from it on."""
    axis = axis % x.ndim if axis < 0 else axis
    rows = 1
    for n in x.shape[:axis]:
        rows = rows * n
    return x.reshape(rows, -1)


@torch_op("Squeeze")
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    """Y is x without axes of length 1."""
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


@torch_op("Unsqueeze")
def unsqueeze(x: Tensor, axes: Ints) -> Tensor:
    """Y is x with axes of length 1, at places of the result."""
    rank = x.ndim + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = x.unsqueeze(axis)
    return x


@torch_op("Transpose")
def transpose(x: Tensor, *, perm: Ints | None = None) -> Tensor:
    """y[i] = x[perm[i]]; without `perm` the axes are turned round."""
    return x.permute(perm if perm is not None else list(reversed(range(x.ndim))))


@torch_op("Expand")
def expand(x: Tensor, shape: Ints) -> Tensor:
    """Y is x, broadcast both ways with a shape."""
    wide = torch.broadcast_shapes(x.shape, tuple(shape))  # type: ignore[no-untyped-call]
    return x.expand(wide)


@torch_op("Tile")
def tile(x: Tensor, repeats: Ints) -> Tensor:
    """Y is x again and again along each axis."""
    return x.repeat(repeats)


@torch_op("Concat")
def concat(*xs: Tensor, axis: int) -> Tensor:
    """Y is the operands one after the other."""
    return torch.cat(xs, axis)


@torch_op("Split")
def split(
    x: Tensor,
    split: Ints | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
    results: int,
) -> list[Tensor]:
    """Y is x in pieces: of given lengths, or of equal ones (the last may be shorter)."""
    if split is not None:
        return list(torch.split(x, split, axis))
    count = num_outputs or results
    return list(torch.split(x, -(-x.shape[axis] // count), axis))


@torch_op("Pad")
def pad(
    x: Tensor,
    pads: Ints,
    constant_value: Number | None = None,
    axes: Ints | None = None,
    *,
    mode: str = "constant",
    value: float = 0.0,
) -> Tensor:
    """Y is x with more (or, where negative, fewer) positions on either side of each axis."""
    axes = list(range(x.ndim)) if axes is None else [a % x.ndim for a in axes]
    begins, ends = [0] * x.ndim, [0] * x.ndim
    for place, axis in enumerate(axes):
        begins[axis], ends[axis] = pads[place], pads[place + len(axes)]
    if mode == "constant":
        fill = value if constant_value is None else scalar(constant_value)
        return F.pad(x, around(begins, ends), value=fill)
    for axis, (before, after) in enumerate(zip(begins, ends, strict=True)):
        if before or after:
            places = torch.arange(-before, x.shape[axis] + after, device=x.device)
            x = x.index_select(axis, _SOURCES[mode](places, x.shape[axis]))
    return x


def _mirrored(places: Tensor, size: int) -> Tensor:
    period = max(2 * (size - 1), 1)
    places = places.remainder(period)
    return torch.where(places < size, places, period - places)


_SOURCES: dict[str, Callable[[Tensor, int], Tensor]] = {  # which position stands at a place outside
    "edge": lambda places, size: places.clamp(0, size - 1),
    "reflect": _mirrored,
    "wrap": lambda places, size: places.remainder(size),
}


@torch_op("DepthToSpace")
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Channels become blocks of pixels; they are block x channels (DCR) or channels x block (CRD)."""
    n, c, h, w = x.shape
    b = blocksize
    if mode == "CRD":
        y = x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    else:
        y = x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(n, c // b**2, h * b, w * b)


@torch_op("SpaceToDepth")
def space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    """Blocks of pixels become channels, block x channels."""
    n, c, h, w = x.shape
    b = blocksize
    y = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    return y.reshape(n, c * b**2, h // b, w // b)


@torch_op("Trilu")
def trilu(x: Tensor, k: Number | None = None, *, upper: int = 1) -> Tensor:
    """Y keeps a triangle of the last two axes."""
    diagonal = int(scalar(k) or 0)
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)
