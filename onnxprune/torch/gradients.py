"""Derivatives of a model's loss by its weights and channels, by automatic differentiation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..core.errors import ModelError, first_line
from ..core.graph import Array, Graph
from ..core.patches import Keys
from .convert import from_onnx
from .objective import loss_of

Singles = NDArray[np.float32]
Values = list[Tensor]  # one per learned initializer
Place = tuple[str, int]  # tensor, axis of its channels


class Differentiable:
    """A model that can be differentiated.

    Attributes:
        names: of the learned initializers, in the order of all that is returned by weight.
    """

    def __init__(self, graph: Graph) -> None:
        """Convert a graph.

        Raises:
            ModelError: if an operator is not carried to PyTorch.
        """
        self.module = from_onnx(graph)
        held = dict(self.module.named_parameters())
        known = {p: n for p, n in self.module.meta["initializers"].items() if p in held}
        self.names: list[str] = list(known.values())
        self.parameters: list[nn.Parameter] = [held[path] for path in known]
        self.inputs = [v.name for v in graph.inputs]

    def weights(self) -> Values:
        """Return the values of the learned initializers."""
        return [parameter.detach() for parameter in self.parameters]

    def by_name(self, values: Sequence[Tensor]) -> dict[str, Singles]:
        """Return one array per learned initializer."""
        arrays = (value.float().numpy() for value in values)
        return dict(zip(self.names, arrays, strict=True))

    def first(
        self,
        feeds: Mapping[str, Array],
        keys: Keys,
        labels: Array | None,
        places: Sequence[Place] = (),
    ) -> tuple[Values, dict[Place, Singles]]:
        """Return derivatives of the samples' summed loss, by weights and by gates on channels.

        Args:
            feeds: inputs by name.
            keys: of the samples.
            labels: of the samples.
            places: tensors of the graph, with the axis of their channels.

        Returns:
            dL/dw per weight; and place -> the sum over positions of x dL/dx, shape (N, C), of those
            places where a gradient comes by and samples can be told apart.
        """
        tensors = frozenset(name for name, _ in places)
        watch = _Watch(self.module, tensors)
        outputs = _several(watch.run(*self._arguments(feeds, tensors)))
        by = [*self.parameters, *watch.seen.values()]
        slopes = _grad(loss_of(outputs, keys, labels), by)
        count = len(self.parameters)
        along = dict(zip(watch.seen, slopes[count:], strict=True))
        gates = {
            (name, axis): _gates(watch.seen[name].detach(), along[name], axis, len(keys))
            for name, axis in places
            if name in along and len(along[name]) % len(keys) == 0
        }
        return slopes[:count], gates

    def second(
        self,
        feeds: Mapping[str, Array],
        keys: Keys,
        labels: Array | None,
        along: Sequence[Values],
    ) -> list[Values]:
        """Return H v for each v of `along`, H the Hessian of the samples' summed loss.

        Raises:
            ModelError: if PyTorch cannot differentiate an operator twice.
        """
        with sdpa_kernel(SDPBackend.MATH):  # the fused ones have no second derivative
            loss = loss_of(_several(self.module(*self._arguments(feeds))), keys, labels)
            try:
                slopes = _grad(loss, self.parameters, again=True)
                products = (
                    sum((s * d).sum() for s, d in zip(slopes, direction, strict=True))
                    for direction in along
                )
                return [_grad(p, self.parameters, kept=True) for p in products]  # type: ignore[arg-type]
            except (RuntimeError, NotImplementedError) as error:
                raise ModelError(
                    f"PyTorch cannot differentiate this model twice: {first_line(error)}; choose a "
                    "criterion of first derivatives, such as taylor or fisher"
                ) from error

    def _arguments(
        self, feeds: Mapping[str, Array], watched: frozenset[str] = frozenset()
    ) -> Iterator[Tensor]:
        """Yield the inputs in their order; float ones that are watched have a gradient."""
        for name in self.inputs:
            x = torch.from_numpy(np.ascontiguousarray(feeds[name]))
            yield x.requires_grad_() if name in watched and x.is_floating_point() else x


class _Watch(fx.Interpreter):
    """Runs a module and keeps some tensors, by their name in the file."""

    def __init__(self, module: fx.GraphModule, tensors: frozenset[str]) -> None:
        super().__init__(module)
        self.tensors = tensors
        self.seen: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        name = n.meta.get("tensor")
        if name in self.tensors and isinstance(value, Tensor) and value.requires_grad:
            self.seen[name] = value
        return value


def _gates(x: Tensor, slope: Tensor, axis: int, count: int) -> Singles:
    """Return the sum over positions of x dL/dx: shape (N, C)."""
    joined = (x.double() * slope.double()).movedim(axis, 0)
    sums = joined.reshape(joined.shape[0], count, -1).sum(2)
    return np.asarray(sums.T.float().numpy())


def _several(found: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else list(found)


def _grad(
    of: Tensor, by: Sequence[Tensor], *, again: bool = False, kept: bool = False
) -> list[Tensor]:
    """Return the gradient; zeros by what has no part in it."""
    if not of.requires_grad:
        return [torch.zeros_like(x) for x in by]
    found = torch.autograd.grad(
        of, by, create_graph=again, retain_graph=again or kept, allow_unused=True
    )
    return [torch.zeros_like(x) if g is None else g for x, g in zip(by, found, strict=True)]
