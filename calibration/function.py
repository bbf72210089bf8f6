"""Samples from a Python function, `module:function`, or from any iterable of batches.

The function takes no arguments. What it returns, or yields, is read once, up to the limit, into a
temporary store. Each item is a mapping of arrays by input name, or a tuple of arrays in the order of
the inputs (one more is "labels"), or for a model with one input an array; first axis samples. Where
that axis is missing, the item is one sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from onnxprune.core.contracts import SOURCES, InputSpec, Samples, SourceRequest
from onnxprune.core.errors import DataError, OnnxPruneError
from onnxprune.core.graph import Array
from onnxprune.core.named import FORM, importable_here, named_function

from ._fit import fit
from ._spill import spill

_LABELS = "labels"  # name of what a tuple holds beyond the inputs


class _Function:
    """`module:function`; the current directory is searched for the module too."""

    form = "module:function, which yields mappings of arrays"

    def accepts(self, data: object) -> bool:
        """Accept text of that form."""
        return isinstance(data, str) and FORM.fullmatch(data) is not None

    def open(self, data: object, request: SourceRequest) -> Samples:
        """Call the function and store what it yields."""
        text = str(data)
        with importable_here():
            function = named_function(text, "--data", DataError)
            try:
                return _stored(function(), request, text)
            except OnnxPruneError:
                raise
            except Exception as error:  # code of the user raises anything; its name and text tell
                raise DataError(
                    f"function '{text}' failed: {type(error).__name__}: {error}"
                ) from error


class _Iterable:
    """Any iterable of batches, in Python."""

    form = "an iterable of mappings of arrays"

    def accepts(self, data: object) -> bool:
        """Accept iterables that are no text, mapping or array."""
        return isinstance(data, Iterable) and not isinstance(data, (str, Path, Mapping, np.ndarray))

    def open(self, data: object, request: SourceRequest) -> Samples:
        """Store the batches."""
        return _stored(data, request, "data")


def _stored(items: object, request: SourceRequest, where: str) -> Samples:
    if not isinstance(items, Iterable):
        raise DataError(
            f"{where} gives {type(items).__name__}, expected an iterable of mappings of arrays"
        )
    if isinstance(items, Mapping):
        items = [items]  # one batch
    batches = (_batch(item, request.inputs, where) for item in items)
    return fit(spill(batches, request.limit, where), request, where)


def _batch(item: object, inputs: tuple[InputSpec, ...], where: str) -> dict[str, Array]:
    """Return one item as arrays by name, first axis samples."""
    names = [spec.name for spec in inputs]
    if isinstance(item, (tuple, list)):
        item = dict(zip([*names, _LABELS], item, strict=False))
    elif not isinstance(item, Mapping) and hasattr(item, "__array__"):
        item = {names[0]: item}
    if not isinstance(item, Mapping):
        raise DataError(
            f"{where} yields {type(item).__name__}, expected a mapping of arrays by input name"
        )
    batch = {str(name): np.asarray(value) for name, value in item.items()}
    lacking = [
        spec.shape is not None
        and spec.name in batch
        and batch[spec.name].ndim == len(spec.shape) - 1
        for spec in inputs
    ]
    return {name: value[None] for name, value in batch.items()} if any(lacking) else batch


SOURCES.register("function")(_Function())
SOURCES.register("iterable")(_Iterable())
