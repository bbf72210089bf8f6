"""Reads and writes by place: slices, indices, the largest values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..operators import Index, Ints, Learned, Number, torch_op
from ..types import torch_dtype
from .unary import scalar


@torch_op("Slice")
def slices(
    x: Tensor, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None
) -> Tensor:
    """Y is a regular run of positions along some axes; ends may lie outside."""
    axes = list(range(len(starts))) if axes is None else axes
    parts = [slice(None)] * x.ndim
    turned = []
    for i, axis in enumerate(axes):
        step, size = (steps[i] if steps else 1), x.shape[axis]
        if step > 0:
            parts[axis] = slice(starts[i], ends[i], step)
            continue
        # PyTorch has no negative steps: the run is taken forwards, and turned round
        places = range(size)[starts[i] : None if ends[i] < -size else ends[i] : step]
        parts[axis] = slice(places[-1], places[0] + 1, -step) if places else slice(0)
        turned.append(axis)
    y = x[tuple(parts)]
    return y.flip(turned) if turned else y


def _inside(index: Tensor, size: int) -> Tensor:
    """Return indices of which the negative ones are counted from the end."""
    return torch.where(index < 0, index + size, index).long()


@torch_op("Gather")
def gather(x: Learned, index: Index, *, axis: int = 0) -> Tensor:
    """Y is x at some positions of an axis: y[.., i, j, ..] = x[.., index[i, j], ..]."""
    if not isinstance(index, Tensor):
        return x.select(axis, index)
    axis, index = axis % x.ndim, _inside(index, x.shape[axis])
    if axis == 0 and x.ndim == 2 and x.is_floating_point():
        return F.embedding(index, x)  # its gradient is faster
    y = x.index_select(axis, index.reshape(-1))
    return y.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


@torch_op("GatherElements")
def gather_elements(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    """Y is x at other positions of one axis, element by element."""
    return x.gather(axis, _inside(index, x.shape[axis]))


_REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@torch_op("ScatterElements")
def scatter_elements(
    x: Tensor, index: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none"
) -> Tensor:
    """Y is x, in which elements along one axis are replaced, or added to and the like."""
    index = _inside(index, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, index, updates)
    return x.scatter_reduce(axis, index, updates, _REDUCE[reduction])


def _rows(index: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the numbers of the rows that tuples of indices name."""
    number = torch.zeros_like(index[..., 0])
    for place, size in enumerate(sizes):
        number = number * size + _inside(index[..., place], size)
    return number


@torch_op("GatherND")
def gather_nd(x: Tensor, index: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Y[.., i, rest] = x[.., *index[i], rest], of each sample by itself."""
    depth = batch_dims + index.shape[-1]
    batch = x.shape[:batch_dims]
    for axis in reversed(range(batch_dims)):  # the number of the sample is an index as well
        shape = [1] * index.ndim
        shape[axis] = batch[axis]
        own = torch.arange(batch[axis], device=x.device).reshape(shape)
        index = torch.cat([own.expand(*index.shape[:-1], 1), index], -1)
    rows = _rows(index, x.shape[:depth])
    flat = x.reshape(-1, *x.shape[depth:])
    return flat.index_select(0, rows.reshape(-1)).reshape(*rows.shape, *x.shape[depth:])


@torch_op("ScatterND")
def scatter_nd(x: Tensor, index: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """Y is x, in which the rows that `index` names are replaced, or added to and the like."""
    depth = index.shape[-1]
    rows = _rows(index, x.shape[:depth]).reshape(-1)
    flat = x.reshape(-1, *x.shape[depth:])
    new = updates.reshape(len(rows), *x.shape[depth:])
    if reduction == "none":
        return flat.index_copy(0, rows, new).reshape(x.shape)
    places = rows.reshape(-1, *[1] * (new.ndim - 1)).expand_as(new)
    return flat.scatter_reduce(0, places, new, _REDUCE[reduction]).reshape(x.shape)


@torch_op("TopK", ignores=("sorted",))
def top_k(x: Tensor, k: Number, *, axis: int = -1, largest: int = 1) -> tuple[Tensor, Tensor]:
    """Values and places of the largest along an axis, or of the smallest."""
    values, places = torch.topk(x, int(scalar(k) or 0), axis, bool(largest))
    return values, places


@torch_op("NonZero")
def nonzero(x: Tensor) -> Tensor:
    """Y is where x is not zero: one row for each axis."""
    return x.nonzero().t()


@torch_op("OneHot")
def one_hot(index: Tensor, depth: Number, values: Tensor, *, axis: int = -1) -> Tensor:
    """Y is the second of two values at the index along a new axis, the first elsewhere."""
    count = int(scalar(depth) or 0)
    places = torch.arange(count, device=index.device)
    hot = _inside(index, count).unsqueeze(-1) == places
    return torch.where(hot, values[1], values[0]).movedim(-1, axis)


@torch_op("ConstantOfShape")
def constant_of_shape(shape: Ints, *, value: Tensor | None = None, like: Tensor) -> Tensor:
    """Y is filled with one value, 0.0 if none is given."""
    if value is None:
        return torch.zeros(shape, device=like.device)
    return value.to(like.device).reshape([1] * len(shape)).expand(shape)


@torch_op("Range")
def arange(start: Number, limit: Number, delta: Number, *, like: Tensor) -> Tensor:
    """Y counts from start to limit, which is left out."""
    return torch.arange(start, limit, delta, device=like.device)


@torch_op("EyeLike")
def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    """y[i, j] = 1 where j = i + k."""
    ones = torch.ones_like(x, dtype=None if dtype is None else torch_dtype(dtype))
    return ones.triu(k).tril(k)


@torch_op("GridSample", since=16)
def grid_sample(
    x: Tensor,
    grid: Tensor,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> Tensor:
    """Y is x sampled at the points of a grid of coordinates from -1 to 1."""
    names = {"linear": "bilinear", "cubic": "bicubic"}
    return F.grid_sample(x, grid, names.get(mode, mode), padding_mode, bool(align_corners))


@torch_op("DFT", since=17)
def fourier_of_axis(
    x: Tensor,
    length: Number | None = None,
    *,
    axis: int = 1,
    inverse: int = 0,
    onesided: int = 0,
) -> Tensor:
    """Return the spectrum along one axis; real and imaginary parts are on the last."""
    return fourier(x, length, axis, inverse=inverse, onesided=onesided)


@torch_op("DFT", since=20)
def fourier(
    x: Tensor,
    length: Number | None = None,
    axis: Number = -2,
    *,
    inverse: int = 0,
    onesided: int = 0,
) -> Tensor:
    """Return the spectrum along one axis; real and imaginary parts are on the last."""
    number = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x.squeeze(-1)
    count = None if length is None else int(scalar(length) or 0)
    place = int(scalar(axis) or 0)
    place = place if place >= 0 else place + 1  # the last axis of x is no axis of the numbers
    if onesided:
        found = (
            torch.fft.irfft(number, count, place)
            if inverse
            else torch.fft.rfft(number, count, place)
        )
    else:
        found = (
            torch.fft.ifft(number, count, place) if inverse else torch.fft.fft(number, count, place)
        )
    return torch.view_as_real(found) if found.is_complex() else found.unsqueeze(-1)
