"""One run of a model: the shapes at which costs are counted and latency is measured."""

from __future__ import annotations

import numpy as np

from ..core.contracts import Samples
from ..core.errors import ModelError
from ..core.graph import Array, Graph
from ..core.input_shapes import input_shapes
from ..core.rules import OP_RULES
from ..core.shapes import Instance, instantiate
from .prove import random_input

# numbers for an unknown batch, sequence and image dimension; the first that suits the model
_SIZES = ((1, 64, 224), (1, 64, 320), (1, 64, 640), (1, 64, 64), (1, 16, 32), (1, 1024, 64))


def example(graph: Graph, samples: Samples | None = None, seed: int = 0) -> dict[str, Array]:
    """Return the inputs of one run: the first sample (or fixed batch) if there is one, else drawn.

    Inputs that are no tensors are left out: nobody can draw them.

    Raises:
        ModelError: if an input has no rank, or no size tried suits the model.
    """
    names = [value.name for value in graph.inputs]
    if samples is not None:
        first = samples.read(0, samples.batch or 1)
        return {name: first[name] for name in names if name in first}
    rng = np.random.default_rng(seed)
    tensors = [value for value in graph.inputs if value.type.HasField("tensor_type")]
    for sizes in _SIZES:
        shapes = input_shapes(tensors, sizes)
        for name, shape in shapes.items():
            if shape is None:
                raise ModelError(f"input '{name}' has no rank: give sample inputs with --data")
        if instantiate(graph, OP_RULES.shape_functions, sizes=sizes, fold=True) is not None:
            return {v.name: random_input(graph, v, shapes[v.name] or (), rng) for v in tensors}
    raise ModelError(
        "the model's shapes become negative at every size tried: give sample inputs with --data"
    )


def instance_of(graph: Graph, feeds: dict[str, Array]) -> Instance:
    """Return the shapes of all tensors in a run on these inputs.

    Raises:
        ModelError: if some shape becomes negative: the inputs are too small for the model.
    """
    inputs = {name: np.shape(array) for name, array in feeds.items()}
    instance = instantiate(graph, OP_RULES.shape_functions, inputs=inputs)
    if instance is None:
        shapes = ", ".join(f"'{name}' {list(shape)}" for name, shape in inputs.items())
        raise ModelError(f"the inputs are too small for the model: {shapes}")
    return instance
