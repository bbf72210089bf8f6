"""Families of transformers for the coverage benchmark: text, sound, images, and several of these."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import onnx
from torch import Tensor, nn

from benchmarks.coverage_rows import Batch, Subject
from onnxprune.core.graph import Graph
from onnxprune.core.runtime import Session
from tests.text_zoo import FAMILIES, Family, examples, write

# opsets rotate from network to network; at 23 attention is one node
EXPORTS = (
    ("torchscript 13", "dynamo 20"),
    ("torchscript 17", "dynamo 23"),
    ("torchscript 20", "dynamo 20"),
)


def subjects() -> Iterator[Subject]:
    """Yield every family."""
    for number, family in enumerate(FAMILIES.values()):
        yield Subject(
            name=f"transformers/{family.name}",
            family=family.name,
            exports=EXPORTS[number % len(EXPORTS)],
            write=functools.partial(_write, family),
            feeds=functools.partial(feeds, family),
            module=functools.partial(_module, family),
        )


def feeds(family: Family, graph: Graph) -> list[Batch]:
    """Return the two samples that the network was exported with, one after the other.

    At opset 23 rotary tables have a batch of one, and onnxruntime takes them for no other.
    """
    names = {value.name for value in graph.inputs}
    given = {n: x.example.numpy() for n, x in examples(family).items() if n in names}
    if graph.inputs[0].type.tensor_type.shape.dim[0].dim_value:
        return [given]  # a network whose batch is a constant
    return [{n: array[i : i + 1] for n, array in given.items()} for i in range(2)]


def _write(family: Family, label: str, path: Path) -> None:
    """Write one export; one that onnxruntime does not run is none."""
    write(family, label, path)
    Session(path).run(feeds(family, Graph.from_model(onnx.load(path)))[0])


def _module(family: Family) -> tuple[nn.Module, tuple[Tensor, ...]]:
    return family.build(), tuple(x.example for x in examples(family).values())
