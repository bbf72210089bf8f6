"""Images changed at random, anew in every epoch: more to learn from the same samples.

The teacher sees what the student sees, so that nothing has to be known of what a change means. Images
are float inputs of four axes with 1, 3 or 4 channels, behind the samples or at the end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from ..core.errors import DataError, OnnxPruneError
from ..core.graph import Array

_CHANNELS = {1, 3, 4}
_STRETCH = np.log(4 / 3)  # of the sides of a part against each other, at most
Images = Callable[[Array, np.random.Generator], Array]  # (N, C, H, W) -> the same shape


@dataclasses.dataclass(frozen=True)
class Mix:
    """How `mixup` mixed: sample i is `share` of itself and the rest of sample `partner[i]`; 1 without."""

    share: float
    partner: NDArray[np.int64]


def crop(x: Array, rng: np.random.Generator) -> Array:
    """Shift by up to an eighth of each side, mirrored at the borders (4 pixels of 32)."""
    count, _, *sides = x.shape
    places = []
    for side in sides:
        shift = rng.integers(-(side // 8), side // 8 + 1, (count, 1))
        place = np.abs(np.arange(side) + shift)
        places.append(np.minimum(place, 2 * (side - 1) - place))
    rows, columns = places[0][:, None, :, None], places[1][:, None, None, :]
    samples, channels = np.ogrid[:count, : x.shape[1]]
    changed: Array = x[samples[..., None, None], channels[..., None, None], rows, columns]
    return changed


def zoom(x: Array, rng: np.random.Generator) -> Array:
    """Enlarge a part, a quarter of the area or more, to the whole (Szegedy et al., arXiv 1409.4842)."""
    area, stretch = rng.uniform(0.25, 1, len(x)), np.exp(rng.uniform(-1, 1, len(x)) * _STRETCH)
    for axis, share in ((2, np.sqrt(area * stretch)), (3, np.sqrt(area / stretch))):
        side, part = x.shape[axis], np.minimum(share, 1)[:, None]
        start = rng.uniform(0, 1, (len(x), 1)) * (1 - part)
        x = _resampled(x, axis, (start + part * (np.arange(side) + 0.5) / side) * side - 0.5)
    return x


def _resampled(x: Array, axis: int, places: NDArray[np.float64]) -> Array:
    """Return the values at places between the pixels of an axis, (N, side), by linear interpolation."""
    last = x.shape[axis] - 1
    places = np.expand_dims(places.clip(0, last), (1, 5 - axis))
    below = places.astype(np.int64)
    right = (places - below).astype(x.dtype)
    low, high = (np.take_along_axis(x, at, axis) for at in (below, np.minimum(below + 1, last)))
    between: Array = low + right * (high - low)
    return between


def flip(x: Array, rng: np.random.Generator) -> Array:
    """Mirror every other image, left to right."""
    chosen = rng.random(len(x)) < 0.5
    return np.where(chosen[:, None, None, None], x[..., ::-1], x)


def cutout(x: Array, rng: np.random.Generator) -> Array:
    """Cover a square of half the side with the image's mean (DeVries and Taylor, arXiv 1708.04552)."""
    covered = np.ones((len(x), 1, 1, 1), np.bool_)
    for axis in (2, 3):
        side = x.shape[axis]
        middle = rng.integers(0, side, (len(x), 1))  # may reach over the border, as in the paper
        near = np.abs(np.arange(side) - middle + 0.5) < side / 4
        covered = covered & np.expand_dims(near, (1, 5 - axis))
    return np.where(covered, x.mean((2, 3), keepdims=True), x)


CHANGES: dict[str, Images] = {"zoom": zoom, "crop": crop, "flip": flip, "cutout": cutout}
MIXUP = "mixup"
_ALPHA = 1.0  # of the Beta distribution; the paper's on CIFAR-10


def check(names: tuple[str, ...]) -> None:
    """Refuse an unknown name.

    Raises:
        OnnxPruneError: in one line.
    """
    known = [*CHANGES, MIXUP]
    for name in names:
        if name not in known:
            raise OnnxPruneError(f"--augment '{name}' is unknown: expected {', '.join(known)}")


def images(names: tuple[str, ...], batch: Mapping[str, Array], inputs: list[str]) -> list[str]:
    """Return the inputs that are images; none are looked for without changes.

    Raises:
        DataError: if there are changes, and no input is of images.
    """
    if not names:
        return []
    found = [name for name in inputs if _channels(batch[name]) is not None]
    if not found:
        shapes = ", ".join(f"'{name}' {list(batch[name].shape)}" for name in inputs)
        raise DataError(
            f"--augment {','.join(names)} is for images (four axes, 1, 3 or 4 channels), found "
            f"{shapes}: leave it out"
        )
    return found


def augmented(
    names: tuple[str, ...], batch: dict[str, Array], inputs: list[str], rng: np.random.Generator
) -> tuple[dict[str, Array], Mix]:
    """Return a batch with its images changed, in the order of CHANGES, and how they were mixed.

    All images of a sample are changed alike if they are of one shape.
    """
    mix = Mix(1.0, np.arange(len(next(iter(batch.values())))))
    if MIXUP in names:
        mix = Mix(float(rng.beta(_ALPHA, _ALPHA)), rng.permutation(mix.partner))
    seed, changed = rng.integers(1 << 32), dict(batch)
    for name in inputs:
        at = _channels(batch[name]) or 1
        x, own = np.moveaxis(batch[name], at, 1), np.random.default_rng(seed)
        for change in (CHANGES[key] for key in CHANGES if key in names):
            x = change(x, own)
        if mix.share < 1:  # Zhang et al., arXiv 1710.09412
            x = mix.share * x + (1 - mix.share) * x[mix.partner]
        changed[name] = np.ascontiguousarray(np.moveaxis(x, 1, at), batch[name].dtype)
    return changed, mix


def _channels(array: Array) -> int | None:
    """Return the axis of the channels of images; None if it is none."""
    if array.ndim != 4 or array.dtype.kind != "f":
        return None
    return next((axis for axis in (1, 3) if array.shape[axis] in _CHANNELS), None)
