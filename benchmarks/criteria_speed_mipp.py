"""MIPP over whole networks, for `criteria_speed.py`: each function returns the work to be timed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from benchmarks import cifar
from onnxprune.core.contracts import CRITERIA, Evidence, Ranking
from onnxprune.core.graph import Graph
from onnxprune.core.stats import Statistics, Summaries
from onnxprune.discover import discover
from onnxprune.passes.criteria.mipp import Mipp
from onnxprune.pipeline.collect import collect
from onnxprune.structure.dependency import analyse

Work = Callable[[], list[Ranking]]


def resnet56(folder: Path, count: int) -> Work:
    """Return: run the published network over images, and rank all groups."""
    discover()
    analysis = analyse(Graph.from_model(onnx.load(cifar.network(56, folder))))
    images = cifar.images("train_1", count)
    criterion = CRITERIA["mipp"]

    def work() -> list[Ranking]:
        samples = images.samples(analysis.graph.inputs[0].name)
        return criterion.rank(Evidence(analysis, collect(analysis, samples, criterion.needs)))

    return work


def resnet50(folder: Path, rows: int) -> Work:
    """Return: rank all groups of a network with ResNet-50's widths, from drawn summaries."""
    from benchmarks.resnet50_speed import step_export

    path = folder / "resnet50.onnx"
    if not path.exists():
        step_export(str(path))
    analysis = analyse(Graph.from_model(onnx.load(path)))
    rng = np.random.default_rng(0)
    values = {}
    for linear in analysis.linears():
        for name, axis in ((linear.x, linear.x_axis), (linear.y, linear.y_axis)):
            width = analysis.shapes.a[name][axis]
            causes = rng.standard_normal((rows, max(int(width) // 4, 1)))
            found = np.abs(causes @ rng.standard_normal((causes.shape[1], int(width))))
            values[name, axis] = np.stack([found, found, found**2], axis=1)
    statistics = Statistics(rows, {}, {}, {}, summaries=Summaries(values, frozenset()))
    return lambda: Mipp(collapse="l1").rank(Evidence(analysis, statistics))
