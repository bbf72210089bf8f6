"""Samples in .npz and .npy files, or in arrays in memory; names are those of the model's inputs.

Several files are read one after the other: `a.npz,b.npz`, `folder/part*.npy`. The name of an .npy
file is that of its array. Where the model has one input and no array has its name, the one array
that fits it feeds it; .npy files that fit it are parts of it.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from onnxprune.core.contracts import SOURCES, Samples, SourceRequest
from onnxprune.core.errors import DataError

from ._columns import Column, Held, Joined
from ._fit import fit, fits
from ._npy import open_npy, open_npz

_SUFFIXES = {".npz", ".npy"}


class _Files:
    """.npz and .npy files, never loaded whole unless compressed."""

    form = ".npz or .npy files (a.npz,b.npz or parts/*.npy)"

    def accepts(self, data: object) -> bool:
        """Accept paths that end in .npz or .npy."""
        if not isinstance(data, (str, Path)):
            return False
        return all(Path(part).suffix.lower() in _SUFFIXES for part in _parts(data))

    def open(self, data: object, request: SourceRequest) -> Samples:
        """Open all files, join arrays of one name, fit them to the inputs."""
        paths = [path for part in _parts(str(data)) for path in _paths(part)]
        found: dict[str, list[Column]] = {}
        bare: list[str] = []
        for path in paths:
            if path.suffix.lower() == ".npy":
                bare.append(path.stem)
                found.setdefault(path.stem, []).append(open_npy(path))
            else:
                for name, column in open_npz(path).items():
                    found.setdefault(name, []).append(column)
        where = str(data)
        columns = {name: _joined(parts, name, where) for name, parts in found.items()}
        only = request.inputs[0] if len(request.inputs) == 1 else None
        if only is not None and only.name not in columns:
            parts = [name for name in dict.fromkeys(bare) if fits(columns[name], only)]
            if len(parts) > 1:
                columns[only.name] = _joined(
                    [columns.pop(name) for name in parts], only.name, where
                )
        return fit(columns, request, where)


class _Arrays:
    """A mapping of arrays: NumPy, or anything NumPy reads."""

    form = "a mapping of arrays by input name"

    def accepts(self, data: object) -> bool:
        """Accept mappings."""
        return isinstance(data, Mapping)

    def open(self, data: object, request: SourceRequest) -> Samples:
        """Fit the arrays to the inputs; they are not copied."""
        assert isinstance(data, Mapping), "accepted above"
        columns: dict[str, Column] = {
            str(name): Held(np.asarray(array)) for name, array in data.items()
        }
        return fit(columns, request, "data")


def _parts(data: str | Path) -> list[str]:
    """Split at commas, unless a file has them in its name."""
    text = str(data)
    return [text] if Path(text).exists() else [part.strip() for part in text.split(",")]


def _paths(part: str) -> list[Path]:
    """Return the files a path or pattern stands for, sorted."""
    if Path(part).exists() or not glob.has_magic(part):
        return [Path(part)]
    paths = [Path(match) for match in sorted(glob.glob(part, recursive=True))]  # noqa: PTH207 - absolute too
    if not paths:
        raise DataError(f"no file matches '{part}'")
    return paths


def _joined(parts: list[Column], name: str, where: str) -> Column:
    """Put parts of one array behind each other."""
    if len(parts) == 1:
        return parts[0]
    kinds = {(part.shape[1:], part.dtype) for part in parts}
    if len(kinds) > 1 or not parts[0].shape:
        shapes = " and ".join(f"{list(part.shape)} of {part.dtype}" for part in parts[:3])
        raise DataError(f"{where}: parts of array '{name}' cannot be joined: {shapes}")
    return Joined(parts)


SOURCES.register("npz")(_Files())
SOURCES.register("arrays")(_Arrays())
