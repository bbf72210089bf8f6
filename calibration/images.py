"""A folder of images as samples of a model with one image input.

`preprocess.json` or `preprocess.toml` in the folder, or `--preprocess`, says how a picture becomes
an input. Pictures in sub-folders carry a label: the place of their sub-folder in sorted order.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from onnxprune.core.contracts import SOURCES, InputSpec, Samples, SourceRequest
from onnxprune.core.errors import DataError
from onnxprune.core.graph import Array
from onnxprune.core.settings import read_settings

from ._columns import Column, Held, Ints
from ._fit import fit
from ._preprocess import Preprocess, preprocessing

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
_BESIDE = ("preprocess.json", "preprocess.toml")
_LABELS = "labels"
_DAMAGED = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises


@dataclasses.dataclass(frozen=True)
class _Pictures:
    """Pictures, decoded when read."""

    paths: list[Path]
    preprocess: Preprocess
    dtype: np.dtype[np.generic]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of pictures, then the shape of one as the model takes it."""
        return (len(self.paths), *self.preprocess.shape)

    def rows(self, index: Ints) -> Array:
        """Decode the pictures of these numbers, side by side: Pillow releases the interpreter."""
        paths = [self.paths[number] for number in index]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.stack(list(pool.map(self._one, paths)))

    def _one(self, path: Path) -> Array:
        try:
            with Image.open(path) as image:
                return self.preprocess.apply(image, self.dtype)
        except _DAMAGED as error:
            raise DataError(f"cannot read image '{path}': {error}; mend or remove it") from error


class _Folder:
    """A folder of images, sub-folders included."""

    form = "a folder of images"

    def accepts(self, data: object) -> bool:
        """Accept folders."""
        return isinstance(data, (str, Path)) and Path(data).is_dir()

    def open(self, data: object, request: SourceRequest) -> Samples:
        """Find the pictures; none is decoded but a few, for the digest."""
        folder = Path(str(data))
        paths = sorted(
            p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file()
        )
        if not paths:
            held = (
                "; for its arrays give " + f"'{folder}/*.npz'"
                if any(folder.glob("*.np[yz]"))
                else ""
            )
            raise DataError(
                f"no images in folder '{folder}': expected {', '.join(sorted(_SUFFIXES))}{held}"
            )
        spec = _image_input(request)
        given, where = _given(folder, request)
        preprocess = preprocessing(given, spec, request.typical()[spec.name], where)
        columns: dict[str, Column] = {spec.name: _Pictures(paths, preprocess, spec.dtype)}
        labels = _labels(folder, paths)
        if labels is not None:
            columns[_LABELS] = Held(labels)
        told = (
            "preprocessing"
            if given
            else "preprocessing guessed from the model's input (see --preprocess)"
        )
        done = dataclasses.replace(request, preprocess=None)
        return fit(columns, done, str(folder), notes=(f"{told}: {preprocess.told()}",))


def _image_input(request: SourceRequest) -> InputSpec:
    if len(request.inputs) != 1:
        names = ", ".join(f"'{spec.name}'" for spec in request.inputs)
        raise DataError(
            f"a folder of images feeds one input, the model has {names}: give .npz files"
        )
    return request.inputs[0]


def _given(folder: Path, request: SourceRequest) -> tuple[Mapping[str, object], str]:
    """Return the specification, and what to call it: the option goes before the file beside."""
    if request.preprocess is not None:
        return request.preprocess, "--preprocess"
    for name in _BESIDE:
        if (folder / name).is_file():
            return read_settings(folder / name), str(folder / name)
    return {}, str(folder)


def _labels(folder: Path, paths: list[Path]) -> Array | None:
    """Return the class of each picture if all lie in sub-folders: int64, shape (N,)."""
    parts = [path.relative_to(folder).parts for path in paths]
    if any(len(part) == 1 for part in parts):
        return None
    places = {name: number for number, name in enumerate(sorted({part[0] for part in parts}))}
    return np.array([places[part[0]] for part in parts], np.int64)


SOURCES.register("images")(_Folder())
