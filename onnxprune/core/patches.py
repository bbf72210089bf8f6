"""The rows a linear operator reads: patches of its input at chosen output positions.

A convolution is a matrix product in disguise: y[n, o, s] = sum_j W[o, j] P[(n, s), j] + b[o], where
row (n, s) of P holds the inputs under the kernel at output position s, column j = (channel, tap),
channel-major, exactly as a Conv weight flattens. With groups, each has its own P. A dense operator
is the case of one tap: a row is x along the axis that is summed over.

Positions are drawn by hashing the samples themselves: neither the order of the samples nor how they
are batched changes which rows are read, and two tensors of the same sample can be read alike.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .declared import Linear
from .errors import InternalError
from .graph import Array
from .padding import tokens_of

Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]  # shape (N,): one per sample

_HASHED = 4096  # values of a sample that its key depends on, evenly spread


def sample_keys(feeds: Mapping[str, Array], count: int, seed: int = 0) -> Keys:
    """Return one key per sample, made from its values; uint64, shape (count,).

    Args:
        feeds: the inputs of one run; the first axis is the samples unless `count` is 1.
        count: number of samples in the run.
        seed: another seed gives other keys.
    """
    sums = [seed & 0xFFFFFFFF] * count
    for name in sorted(feeds):
        array = np.asarray(feeds[name])
        if count > 1 and array.shape[:1] != (count,):
            continue  # the same for all samples of the run
        rows = array.reshape(count, -1)
        thin = np.ascontiguousarray(rows[:, :: max(1, rows.shape[1] // _HASHED)])
        sums = [zlib.crc32(row.tobytes(), old) for row, old in zip(thin, sums, strict=True)]
    return np.array(sums, np.uint64)


def sample_positions(
    linear: Linear,
    x_shape: tuple[int, ...],
    rows: int,
    keys: Keys,
    mask: Array | None = None,
) -> Ints:
    """Draw output positions for each sample, one in each of `rows` equal stretches.

    Operators that read the same tensor with the same geometry get the same positions. Of a sample
    with fewer tokens than others some are drawn more than once, so that each counts alike.

    Args:
        linear: the operator.
        x_shape: shape of its input in this run.
        rows: how many positions a sample; all of them if there are fewer.
        keys: one per sample, from `sample_keys`.
        mask: zero at padding, which is not drawn (see `core.padding`); None: there is none.

    Returns:
        int64, shape (M, R): flat indices into the spatial axes of y (dense: into the axes of x
        that are neither the first nor summed). M is the number of samples, or the length of x's
        first axis where a sample spreads over several entries of it (video frames, windows).
    """
    lead, spatial = _layout(linear, x_shape, len(keys))
    each = rows
    if lead != len(keys):
        copies = lead // len(keys) if lead % len(keys) == 0 else 0
        keys = np.repeat(keys, copies) if copies else np.resize(keys, lead)
        each_copy = np.arange(lead, dtype=np.uint64) % np.uint64(max(copies, 1))
        keys = _mix(np.asarray(_mix(keys) + each_copy, np.uint64))
        each = max(1, rows // max(copies, 1))
    total = int(np.prod(spatial, dtype=np.int64))
    real = tokens_of(linear, x_shape, mask).reshape(lead, -1)
    if total <= each and real.all():
        return np.broadcast_to(np.arange(total), (lead, total))
    each, counts = min(each, total), np.full(lead, total)
    if real.size:
        counts = np.where(real.any(axis=1), real.sum(axis=1), total)
    edges = np.arange(each + 1) * counts[:, None] // each
    place = np.uint64(zlib.crc32(repr((linear.x, linear.x_axis)).encode()) << 32)
    stretch = np.arange(each, dtype=np.uint64)
    numbers = _mix(np.add(_mix(keys ^ place)[:, None], stretch, dtype=np.uint64))
    share = (numbers >> np.uint64(11)).astype(np.float64) / (1 << 53)
    drawn: Ints = edges[:, :-1] + (share * np.diff(edges)).astype(np.int64)
    if real.size:  # tokens first, in order
        drawn = np.take_along_axis(np.argsort(~real, axis=1, kind="stable"), drawn, axis=1)
    return drawn


def patches(x: Array, linear: Linear, positions: Ints) -> Array:
    """Read the patches under the kernel at `positions`; what lies outside x is zero.

    Args:
        x: the operator's input.
        linear: the operator.
        positions: int64, shape (M, R), from `sample_positions`.

    Returns:
        float32 (float64 if x is), shape (G, M * R, p) with p = channels / G * taps: W[o] flattened,
        times a row of its group, plus the bias, is the output there.
    """
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    if not linear.kernel:
        rows = _at(np.moveaxis(x, linear.x_axis, -1), positions)
        return np.ascontiguousarray(rows, dtype)[None]
    index, inside = _windows(linear, x.shape[2:], positions)
    lead, channels = x.shape[:2]
    flat, taps = x.reshape(lead, channels, -1), inside.shape[-1]
    width, count = channels // linear.groups, positions.shape[1]
    result = np.empty((linear.groups, lead, count, width, taps), dtype)
    for n in range(lead):
        picked = flat[n].take(index[n].ravel(), axis=1).reshape(linear.groups, width, count, taps)
        result[:, n] = picked.transpose(0, 2, 1, 3)
    if not inside.all():
        result *= inside[None, :, :, None, :]
    return result.reshape(linear.groups, lead * count, width * taps)


def outputs_at(y: Array, linear: Linear, positions: Ints) -> Array:
    """Read an operator's output at `positions`: shape (M * R, outputs), rows as in `patches`."""
    return _at(np.moveaxis(y, linear.y_axis, -1), positions)


def spatial_shape(linear: Linear, x_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the spatial axes of a convolution's output for an input of shape `x_shape`."""
    rank = len(linear.kernel)
    begins, ends = linear.pads[:rank], linear.pads[rank:]
    return tuple(
        (size + before + after - d * (k - 1) - 1) // s + 1
        for size, before, after, d, k, s in zip(
            x_shape[2:], begins, ends, linear.dilations, linear.kernel, linear.strides, strict=True
        )
    )


def row_width(linear: Linear, x_shape: tuple[int, ...]) -> int:
    """Return p, the number of columns of `patches`."""
    return x_shape[linear.x_axis] // linear.groups * int(np.prod(linear.kernel, dtype=np.int64))


def _layout(linear: Linear, x_shape: tuple[int, ...], samples: int) -> tuple[int, tuple[int, ...]]:
    """Return how many entries positions are drawn for, and the shape they index."""
    if linear.kernel:
        return x_shape[0], spatial_shape(linear, x_shape)
    total = int(np.prod(x_shape, dtype=np.int64)) // x_shape[linear.x_axis]
    return (samples, (total // samples,)) if total % samples == 0 else (1, (total,))


def _at(rows: Array, positions: Ints) -> Array:
    """Pick rows: `rows` is (..., C) with M entries first; returns (M * R, C)."""
    flat = rows.reshape(-1, rows.shape[-1])
    if len(flat) % len(positions):
        raise InternalError(f"{len(flat)} rows cannot belong to {len(positions)} entries")
    first = np.arange(len(positions))[:, None] * (len(flat) // len(positions))
    picked: Array = flat[(first + positions).ravel()]
    return picked


def _windows(
    linear: Linear, spatial: tuple[int, ...], positions: Ints
) -> tuple[Ints, NDArray[np.bool_]]:
    """Return the flat input index of every tap, and whether it lies inside: shape (M, R, taps)."""
    places = np.unravel_index(positions, spatial_shape(linear, (0, 0, *spatial)))
    taps = np.indices(linear.kernel).reshape(len(linear.kernel), -1)
    index = np.zeros((*positions.shape, taps.shape[1]), np.int64)
    inside = np.ones(index.shape, np.bool_)
    for axis, size in enumerate(spatial):
        start = places[axis] * linear.strides[axis] - linear.pads[axis]
        along = start[..., None] + taps[axis] * linear.dilations[axis]
        inside &= (along >= 0) & (along < size)
        index = index * size + along.clip(0, size - 1)
    return index, inside


def _mix(keys: Keys) -> Keys:
    """Hash 64-bit integers (splitmix64, Steele et al., OOPSLA 2014)."""
    z = keys + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Keys = z ^ (z >> np.uint64(31))
    return mixed
