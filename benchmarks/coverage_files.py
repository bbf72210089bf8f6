"""Published files of many exporters for the coverage benchmark, on real inputs where there are some.

The files are those of the folder `onnx` of the data ($ONNXPRUNE_DATA); what is known of their inputs
is in `files_recipes.py`. Where nothing is, the proof draws inputs.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.coverage_rows import Batch, Subject
from benchmarks.files_recipes import RECIPES
from onnxprune.core.graph import Array, Graph
from onnxprune.core.runtime import Session

_BATCH = 2  # where the file leaves it open


def subjects() -> Iterator[Subject]:
    """Yield every file of the folder."""
    folder = Path(os.environ["ONNXPRUNE_DATA"])
    for path in sorted((folder / "onnx").glob("*.onnx")):
        yield Subject(
            name=f"file/{path.stem}",
            family=path.stem,
            exports=("as it is",),
            write=functools.partial(_copy, path),
            feeds=functools.partial(feeds, path, folder),
        )


def _copy(path: Path, _: str, target: Path) -> None:
    shutil.copy(path, target)


def feeds(path: Path, folder: Path, graph: Graph) -> list[Batch]:
    """Return one batch of real samples; none where nobody has said what the inputs are."""
    recipe = RECIPES.get(path.stem)
    if recipe is None:
        return []
    samples = recipe.samples(folder, Session(path))
    shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.inputs}
    return [{name: _part(np.asarray(array), shapes[name]) for name, array in samples.items()}]


def _part(array: Array, shape: Sequence[Any]) -> Array:
    """Return what one run takes of samples: a batch of them, or one where it takes no batch."""
    return array[0] if array.ndim > len(shape) else array[: shape[0].dim_value or _BATCH]
