"""The reference zoo of the tests for the coverage benchmark."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.coverage_rows import Batch, Subject
from onnxprune.core.graph import Graph
from tests import zoo

_KINDS = {True: "bn", False: "folded"}  # BatchNormalization kept as nodes, or folded


def subjects() -> Iterator[Subject]:
    """Yield every architecture, with all its distinct exports."""
    for name in zoo.ARCHITECTURES:
        exports = [f"{exporter} 20 {_KINDS[keep]}" for n, exporter, keep in zoo.CASES if n == name]
        yield Subject(
            name=f"zoo/{name}",
            family=name,
            exports=tuple(exports),
            write=functools.partial(_write, name),
            feeds=functools.partial(_feeds, name),
            module=functools.partial(_module, name),
        )


def _write(name: str, label: str, path: Path) -> None:
    os.environ.setdefault("ONNXPRUNE_ZOO", str(path.parent))
    exporter, _, kind = label.split()
    cases = {(n, e, _KINDS[k]): (n, e, k) for n, e, k in zoo.CASES}
    shutil.copy(zoo.exported(*cases[name, exporter, kind]), path)


def _feeds(name: str, graph: Graph) -> list[Batch]:
    return [{value.name: zoo.samples(name) for value in graph.inputs}]


def _module(name: str) -> tuple[Any, tuple[Any, ...]]:
    network, batch = zoo.build(name)
    return network, (batch,)
