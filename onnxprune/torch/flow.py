"""A network of absolute weights, fed ones, and how much of its outputs flows through each weight.

In float64: outputs are products over all layers and leave float32 in deep networks.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, fx, nn

from ..core.errors import ModelError
from ..core.graph import Graph
from ..proof.example import example
from .convert import from_onnx

Floats = NDArray[np.float64]

_TYPES = ("to", "dtype")  # attributes that name the element type of a result


class Flow:
    """The network |w|, whose weights can be silenced."""

    def __init__(self, graph: Graph) -> None:
        """Convert a graph; all learned values and running statistics become absolute.

        Raises:
            ModelError: if an operator is not carried to PyTorch.
        """
        self.module = _doubled(from_onnx(graph))
        initializers = self.module.meta["initializers"]
        state = self.module.state_dict()
        held = dict(self.module.named_parameters())
        self.weights: dict[str, nn.Parameter] = {
            name: held[path] for path, name in initializers.items() if path in held
        }
        self._values = {name: state[path] for path, name in initializers.items()}
        with torch.no_grad():
            for value in self._values.values():
                value.abs_()
        feeds = example(graph)
        self.ones = [_ones(feeds[v.name]) for v in graph.inputs]

    def slopes(self) -> dict[str, Floats]:
        """Return dR/dw of every learned initializer, R the sum of all float outputs.

        Raises:
            ModelError: if R is not finite.
        """
        outputs = self.module(*self.ones)
        several = [outputs] if isinstance(outputs, Tensor) else outputs
        total = torch.stack([y.sum() for y in several if y.is_floating_point()]).sum()
        if not torch.isfinite(total):
            raise ModelError(
                "synflow: the outputs of the network with absolute weights are not finite; "
                "choose another criterion"
            )
        found = torch.autograd.grad(total, list(self.weights.values()), allow_unused=True)
        return {
            name: np.zeros(weight.shape) if slope is None else slope.numpy()
            for (name, weight), slope in zip(self.weights.items(), found, strict=True)
        }

    def silence(self, tensor: str, axis: int, positions: NDArray[np.int64]) -> None:
        """Set positions along an axis of an initializer to zero."""
        if tensor in self._values:
            with torch.no_grad():
                self._values[tensor].index_fill_(axis, torch.from_numpy(positions), 0.0)


def _ones(array: NDArray[np.generic]) -> Tensor:
    """Return ones of the shape of one sample's input, which ids and masks can be, too."""
    x = torch.from_numpy(np.ones_like(array))
    return x.double() if x.is_floating_point() else x


def _doubled(module: fx.GraphModule) -> fx.GraphModule:
    """Return a module that computes in float64 wherever it did in float32."""
    for node in module.graph.nodes:
        types = {k: v for k, v in node.kwargs.items() if k in _TYPES and v == TensorProto.FLOAT}
        node.kwargs = {**node.kwargs, **dict.fromkeys(types, TensorProto.DOUBLE)}
    module.recompile()
    return module.double()
