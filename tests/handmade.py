"""Graphs written by hand as ONNX text, with random weights; and the proof that they can be pruned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, helper, numpy_helper, parser

from onnxprune.core.analysis import Analysis, Group
from onnxprune.core.graph import Graph
from onnxprune.passes.surgery.channels import remove_channels
from onnxprune.proof.prove import prove
from onnxprune.structure.dependency import analyse
from tests.examples import random_mask

Array = npt.NDArray[Any]
MOVED = 1e-3  # what a removal has to change the outputs by, relatively, for a proof to mean much


def handmade(
    text: str, *, opset: int = 18, seed: int = 0, **weights: Sequence[int] | Array | None
) -> ModelProto:
    """A model from the text of its graph, `(inputs) => (outputs) { nodes }`.

    Args:
        text: what follows the graph's name in ONNX text.
        opset: of the default domain.
        seed: of the weights.
        weights: initializers: their values, or the shape of random ones. Nothing is neutral: no
            zeros, no ones; variances (names that begin with `var`) are positive.
    """
    rng = np.random.default_rng(seed)
    graph = parser.parse_graph(f"hand {text}")
    for name, value in weights.items():
        array = value if isinstance(value, np.ndarray) else _random(rng, name, tuple(value or ()))
        graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    imports = [helper.make_opsetid("", opset)]
    domains = {node.domain for node in graph.node} - {""}
    imports += [helper.make_opsetid(domain, 1) for domain in sorted(domains)]
    version = helper.find_min_ir_version_for(imports, ignore_unknown=True)
    return helper.make_model(graph, opset_imports=imports, ir_version=max(version, 4))


def _random(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Array:
    noise = np.asarray(rng.standard_normal(shape))
    if name.startswith("var"):
        return np.asarray(0.5 + np.abs(noise), np.float32)
    fan_in = noise.size // max(shape) if len(shape) > 1 else 1
    return np.asarray(noise / np.sqrt(fan_in), np.float32)


def ints(*values: int) -> Array:
    """An int64 vector."""
    return np.array(values, np.int64)


def examined(model: ModelProto) -> Analysis:
    """The analysis of a model."""
    return analyse(Graph.from_model(model))


def proved(model: ModelProto, *, draws: int = 3, moved: float = MOVED) -> Analysis:
    """Remove random units of every group, a few times, and prove it each time."""
    graph = Graph.from_model(model)
    analysis = analyse(graph)
    for seed in range(draws):
        mask = random_mask(analysis, np.random.default_rng(seed), (0.3, 0.6, 0.8)[seed % 3])

        assert prove(graph, mask, remove_channels(mask)).moved > moved
    return analysis


def group_of(analysis: Analysis, tensor: str, axis: int = 0) -> Group:
    """The only group that owns positions of a weight's axis."""
    (group,) = groups_of(analysis, tensor, axis)
    return group


def groups_of(analysis: Analysis, tensor: str, axis: int = 0) -> list[Group]:
    """The groups that own positions of a weight's axis."""
    owned = [{(m.tensor, m.axis) for m in group.members} for group in analysis.groups]
    return [
        g for g, members in zip(analysis.groups, owned, strict=True) if (tensor, axis) in members
    ]


def members(analysis: Analysis) -> list[set[tuple[str, int]]]:
    """The weight axes of each group."""
    return [{(m.tensor, m.axis) for m in group.members} for group in analysis.groups]
