"""Opens sample inputs of any form that a registered source reads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from onnx import ValueInfoProto, helper

from ..core.contracts import SOURCES, Batch, InputSpec, Samples, SourceRequest
from ..core.errors import DataError, ModelError
from ..core.graph import Graph
from ..core.interface import Interface
from ..core.settings import read_settings
from ..discover import discover
from ..proof.example import example

Data = str | Path | Samples | Mapping[str, Any] | Iterable[Batch]


def open_samples(
    data: Data,
    graph: Graph,
    *,
    limit: int | None = None,
    seed: int = 0,
    preprocess: str | Mapping[str, Any] | None = None,
    interface: Interface | None = None,
) -> Samples:
    """Open sample inputs for a model.

    Args:
        data: the text of `--data`, a mapping of arrays by input name, an iterable of such mappings,
            or samples, which are returned as they are (up to `limit`).
        graph: the model.
        limit: at most so many samples, then drawn from all over the data; None: all, in order.
        seed: of that draw.
        interface: how the model counts its inputs anew; the data are for the original.
        preprocess: for images: a mapping, the path of a .json or .toml file, or JSON text.

    Raises:
        DataError: if no source reads the data, or it does not fit the model's inputs.
        ModelError: if an input of the model is no tensor.
    """
    if isinstance(data, Samples):
        return data if limit is None else data.part(0, limit)
    discover()
    request = SourceRequest(
        inputs=tuple(
            restored(_spec(graph, value), interface or Interface()) for value in graph.inputs
        ),
        typical=cache(lambda: {name: tuple(array.shape) for name, array in example(graph).items()}),
        limit=limit,
        seed=seed,
        preprocess=_preprocess(preprocess),
    )
    for source in SOURCES.values():
        if source.accepts(data):
            return source.open(data, request)
    forms = "; ".join(source.form for source in SOURCES.values())
    shown = f"'{data}'" if isinstance(data, (str, Path)) else type(data).__name__
    raise DataError(f"cannot read samples from {shown}: expected one of: {forms}")


def _spec(graph: Graph, value: ValueInfoProto) -> InputSpec:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        raise ModelError(f"input '{value.name}' is not a tensor: such models cannot be fed samples")
    shape: tuple[int | None, ...] | None = None
    if tensor.HasField("shape"):
        sizes = (dim.dim_value if dim.HasField("dim_value") else 0 for dim in tensor.shape.dim)
        shape = tuple(size if size > 0 else None for size in sizes)
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return InputSpec(value.name, shape, dtype, _below(graph, value.name))


def restored(spec: InputSpec, interface: Interface) -> InputSpec:
    """Return what the original takes at an input of a model that counts its inputs anew."""
    for part in interface.parts:
        if part.kind == "input" and part.tensor == spec.name and spec.shape is not None:
            shape = (*spec.shape[: part.axis], part.size, *spec.shape[part.axis + 1 :])
            spec = dataclasses.replace(spec, shape=shape)
        if spec.name in part.ids:
            spec = dataclasses.replace(spec, below=part.size)
    return spec


def _below(graph: Graph, name: str) -> int | None:
    """Return the length of the shortest table that the input is an index into."""
    tables = [
        graph.weights[node.input[0]].shape[_axis(node)]
        for node in graph.nodes
        if node.op_type == "Gather" and node.input[1] == name and node.input[0] in graph.weights
    ]
    return min(tables, default=None)


def _axis(node: Any) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)


def _preprocess(given: str | Mapping[str, Any] | None) -> Mapping[str, object] | None:
    """Read the specification from a file or from JSON text."""
    if given is None or isinstance(given, Mapping):
        return given
    if not given.lstrip().startswith("{"):
        return read_settings(Path(given))
    try:
        table: Mapping[str, object] = json.loads(given)
    except ValueError as error:
        raise DataError(f"--preprocess is not valid JSON: {error}") from error
    return table
