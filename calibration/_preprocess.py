"""How a picture becomes a model input: size, scale, mean and std, order of axes and channels.

value = (pixel * scale - mean) / std, with pixel in 0..255 and mean, std per channel. What is not
given is taken from the model's input, or guessed as its kind of model usually has it:
channels-first float models of three channels take ImageNet's mean and std, channels-last ones take
-1..1, models of one channel take 0..1, integer models take the pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onnxprune.core.contracts import InputSpec
from onnxprune.core.errors import DataError
from onnxprune.core.graph import Array
from onnxprune.core.input_shapes import Shape

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_MODES = {"RGB": "RGB", "BGR": "RGB", "L": "L"}  # order of channels -> how Pillow decodes
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_LARGEST_SIDE = 1 << 14  # pixels
_IMAGE_RANK = 4

_Side = Annotated[int, Field(gt=0, le=_LARGEST_SIDE)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Given(BaseModel):
    """What the user wrote: every field optional, no other allowed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    size: _Side | Annotated[list[_Side], Field(min_length=2, max_length=2)] | None = None
    resize: Literal["crop", "stretch", "pad"] = "crop"
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    scale: _Positive | None = None
    mean: _Finite | list[_Finite] | None = None
    std: _Positive | list[_Positive] | None = None
    layout: Literal["NCHW", "NHWC"] | None = None
    channels: Literal["RGB", "BGR", "L"] | None = None


class Preprocess(BaseModel):
    """Every choice made.

    Attributes:
        size: height and width, in pixels.
        resize: "crop" scales the shorter side to size / crop and cuts the centre out, "stretch"
            scales both sides, "pad" scales the longer side and adds black.
        crop: share of the scaled shorter side that is kept.
        interpolation: filter of the scaling.
        scale, mean, std: of the formula; mean and std one number per channel.
        layout: order of axes.
        channels: order of channels.
    """

    model_config = ConfigDict(frozen=True)

    size: tuple[int, int]
    resize: str
    crop: float
    interpolation: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: str
    channels: str

    @property
    def shape(self) -> Shape:
        """Shape of one picture as the model takes it."""
        depth = len(self.channels)
        return (depth, *self.size) if self.layout == "NCHW" else (*self.size, depth)

    def apply(self, image: Image.Image, dtype: np.dtype[np.generic]) -> Array:
        """Return the picture as an array of `shape`."""
        pixels = np.asarray(self._sized(image.convert(_MODES[self.channels])), np.float32)
        pixels = pixels.reshape(*self.size, len(self.channels))
        if self.channels == "BGR":
            pixels = pixels[..., ::-1]
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        values: Array = (pixels * np.float32(self.scale) - mean) / std
        if dtype.kind in "iu":
            limits = np.iinfo(dtype.name)
            values = np.rint(values).clip(limits.min, limits.max)
        ordered = values.transpose(2, 0, 1) if self.layout == "NCHW" else values
        return np.ascontiguousarray(ordered, dtype)

    def _sized(self, image: Image.Image) -> Image.Image:
        height, width = self.size
        method = _FILTERS[self.interpolation]
        if self.resize == "stretch":
            return image.resize((width, height), method)
        ratios = width / image.width, height / image.height
        if self.resize == "pad":
            scaled = image.resize(_rounded(image, min(ratios)), method)
            canvas = Image.new(image.mode, (width, height))
            canvas.paste(scaled, ((width - scaled.width) // 2, (height - scaled.height) // 2))
            return canvas
        scaled = image.resize(_rounded(image, max(ratios) / self.crop), method)
        left, top = (scaled.width - width) // 2, (scaled.height - height) // 2
        return scaled.crop((left, top, left + width, top + height))

    def told(self) -> str:
        """Say it in one line."""
        return (
            f"{self.size[0]}x{self.size[1]} {self.resize}, {self.channels} {self.layout}, "
            f"(pixel * {self.scale:.4g} - {_list(self.mean)}) / {_list(self.std)}"
        )


def preprocessing(
    given: Mapping[str, object], spec: InputSpec, typical: Shape, where: str
) -> Preprocess:
    """Complete what the user gave from the model's input.

    Args:
        given: fields of the specification, by name.
        spec: the model's image input.
        typical: a shape of it, symbolic dimensions filled in.
        where: what to call the specification in messages.

    Raises:
        DataError: if a field is unknown or makes no sense, or the input takes no images.
    """
    try:
        wish = _Given.model_validate(
            {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}
        )
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        known = ", ".join(_Given.model_fields)
        said = "unknown" if first["type"] == "extra_forbidden" else first["msg"]
        raise DataError(f"{where}: field '{field}': {said} (fields: {known})") from error
    layout = wish.layout or _layout(spec, typical)
    depth = typical[1] if layout == "NCHW" else typical[3]
    channels = wish.channels or {1: "L", 3: "RGB"}.get(depth)
    if channels is None or len(channels) != depth:
        raise DataError(
            f"{where}: input '{spec.name}' {list(typical)} has {depth} channels in layout {layout}, "
            f"found channels {channels or 'RGB or L'}: give --preprocess with another layout or channels"
        )
    inner = (typical[2], typical[3]) if layout == "NCHW" else (typical[1], typical[2])
    size = (wish.size, wish.size) if isinstance(wish.size, int) else tuple(wish.size or inner)
    scale, mean, std = _usual(spec, layout, depth)
    return Preprocess(
        size=(size[0], size[1]), resize=wish.resize, crop=wish.crop, interpolation=wish.interpolation,
        scale=scale if wish.scale is None else wish.scale,
        mean=_each(wish.mean, mean, depth, "mean", where), std=_each(wish.std, std, depth, "std", where),
        layout=layout, channels=channels,
    )  # fmt: skip


def _layout(spec: InputSpec, typical: Shape) -> str:
    """Tell where the channels are: the axis that is known to be 1 or 3 long."""
    if len(typical) != _IMAGE_RANK or spec.shape is None:
        raise DataError(
            f"input '{spec.name}' {list(typical)} takes no images (4 axes): give its samples as .npz or .npy"
        )
    return "NHWC" if spec.shape[3] in {1, 3} and spec.shape[1] not in {1, 3} else "NCHW"


def _usual(
    spec: InputSpec, layout: str, depth: int
) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """Return scale, mean and std as models of this kind usually have them."""
    if spec.dtype.kind in "iu":
        return 1.0, (0.0,), (1.0,)
    if depth == 1:
        return 1 / 255, (0.0,), (1.0,)
    return (1 / 255, *_IMAGENET) if layout == "NCHW" else (1 / 255, (0.5,), (0.5,))


def _each(
    given: float | list[float] | None, usual: tuple[float, ...], depth: int, name: str, where: str
) -> tuple[float, ...]:
    """Return one number per channel."""
    values = usual if given is None else tuple(given) if isinstance(given, list) else (given,)
    if len(values) not in {1, depth}:
        raise DataError(f"{where}: field '{name}' has {len(values)} numbers, expected 1 or {depth}")
    return values * depth if len(values) == 1 else values


def _list(values: tuple[float, ...]) -> str:
    return (
        f"{values[0]:.4g}"
        if len(set(values)) == 1
        else "[" + " ".join(f"{v:.4g}" for v in values) + "]"
    )


def _rounded(image: Image.Image, ratio: float) -> tuple[int, int]:
    return max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
