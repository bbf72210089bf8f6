"""Graphs of one example each, and random masks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, printer

from onnxprune.core.analysis import Analysis, Mask
from onnxprune.core.rules import OP_RULES, Example, OpRule
from tests.strategies import BATCH, Growth

# A rule for some op types, under an example and an opset at which the example is valid.
CASES: list[tuple[OpRule, Example, int]] = [
    (rule, example, opset)
    for rule in OP_RULES.all()
    for example in rule.examples
    for opset in example.opsets
]


def example_growth(
    example: Example, opset: int, *, seed: int = 0, channels: int = 8, table: bool = False
) -> Growth:
    """The example on a linear operator of the graph input, or on tables of weights; its step is last.

    Raises:
        UnfitError: if onnxruntime refuses it.
    """
    growth = Growth(seed, opset)
    x = growth.source(example.rank)
    if table:
        x = growth.table((*x.shape[:-1], channels) if x.rank < 4 else (BATCH, channels, 8, 8))
    else:
        x = growth.produce(x, channels)
    growth.grow(example, x)
    return growth


def isolated(growth: Growth, node: NodeProto, *, weights_too: bool) -> Growth:
    """The node by itself: operands made of tables, each of its own; its step is last.

    Args:
        growth: where the node is, with values of what it reads.
        node: one of its nodes.
        weights_too: whether random weights become computed operands as well.

    Raises:
        UnfitError: if there is no such graph.
    """
    alone = Growth([0, 5], growth.opset)
    copy, held, weights = NodeProto(), [], {}
    copy.CopyFrom(node)
    for slot, name in enumerate(node.input):
        value = growth.weights.get(name, growth.values.get(name))
        if value is None:
            continue
        drawn = name[0] in "wbsmvqzo" and name in growth.weights
        steers = value.size == 1 or value.dtype.kind == "i"  # lengths, indices, scalars
        if steers or (name in growth.weights and not (weights_too and drawn)):
            copy.input[slot] = f"{name}_{slot}"
            weights[copy.input[slot]] = value
        else:
            held.append(alone.holding(value))
            copy.input[slot] = held[-1].name
    for slot, name in enumerate(node.output):
        copy.output[slot] = name and f"{name}_alone"
    alone._append([copy], weights, held or [alone.source(4)], np.inf)
    return alone


def example_model(example: Example, opset: int, *, seed: int = 0, channels: int = 8) -> ModelProto:
    """Graph input, linear operator, the example, heads."""
    return example_growth(example, opset, seed=seed, channels=channels).model()


def random_units(
    analysis: Analysis, rng: np.random.Generator, ratio: float
) -> npt.NDArray[np.int64]:
    """A random share of the units of every group, thinned until no axis is emptied."""
    chosen = [
        rng.choice(g.units, max(1, int(len(g) * ratio)), replace=False) for g in analysis.groups
    ]
    units = rng.permutation(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)
    while analysis.mask(units).emptied():
        units = units[: -max(1, len(units) // 20)]
    return units


def random_mask(analysis: Analysis, rng: np.random.Generator, ratio: float) -> Mask:
    """The mask of `random_units`."""
    return analysis.mask(random_units(analysis, rng, ratio))


def text_of(model: ModelProto) -> str:
    """The model as ONNX text, without the values of its weights, for a failing case."""
    bare = ModelProto()
    bare.CopyFrom(model)
    del bare.graph.initializer[:]
    shapes = (f"{t.name} {list(t.dims)}" for t in model.graph.initializer)
    return f"{printer.to_text(bare)}\n# weights: {', '.join(shapes)}"
