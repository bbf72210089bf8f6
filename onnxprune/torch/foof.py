"""Gradients of layers, freed of what their inputs have in common: FOOF.

What a layer W reads, x, is strongly correlated, and a step along the gradient moves its outputs far in few
directions and hardly in all others. With the second moments A = E[sum over positions of x x'] the step

    D = G (A + damping mean(diag A) 1)^-1

is the one of least squares towards outputs that are better by their own gradient (Benzing 2022, "Gradient
descent on neurons and its link to approximate second-order optimization", arXiv 2201.12250): a
small, stochastic turn of the repair that pruning ends with. A bias is a weight of the input 1. Parameters
of no layer (scales, shifts, embeddings) are divided by the number of positions that they act on, which is
the same rule for an input of unit variance; so are layers with very many inputs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from .checkpoint import State
from .ops.linear import conv, gemm, matmul

_ROWS = 1 << 16  # of a layer's inputs that are looked at; more tell little of a few hundred columns
_WIDEST = 8192  # inputs of a layer; of more, an inverse would take over 256 MB


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A convolution or product of matrices with a weight of its own.

    Attributes:
        node: of the module's graph.
        reads: the node whose value it takes.
        weight: path of it.
        bias: path of it, None if there is none.
    """

    node: fx.Node
    reads: fx.Node
    weight: str
    bias: str | None

    @property
    def is_turned(self) -> bool:
        """Whether the weight has its inputs first."""
        return self.node.target is matmul or (
            self.node.target is gemm and not self.node.kwargs.get("transB")
        )

    @property
    def groups(self) -> int:
        """How many parts of the inputs have outputs of their own."""
        found = self.node.kwargs.get("group", 1)
        assert isinstance(found, int)
        return found

    def as_rows(self, w: Tensor) -> Tensor:
        """Return a weight, or its gradient, as (groups, outputs, inputs)."""
        rows = w.t() if self.is_turned else w.flatten(1)
        return rows.reshape(self.groups, -1, rows.shape[1])

    def as_weight(self, rows: Tensor, like: Tensor) -> Tensor:
        """Return rows in the layout of the weight."""
        rows = rows.reshape(-1, rows.shape[2])
        return rows.t() if self.is_turned else rows.reshape(like.shape)

    def inputs(self, x: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, int]:
        """Return what the layer reads, (groups, rows, inputs), and how many rows are of one sample.

        Args:
            x: its input.
            y: its output.
            w: its weight.
        """
        if self.node.target is not conv:
            rows = x.reshape(-1, x.shape[-1])
            return rows[:_ROWS][None], max(1, len(rows) // len(x))
        each, inside = math.prod(y.shape[2:]), math.prod(w.shape[1:])
        # patches by the convolution itself, with kernels of one 1 each: its attributes all hold
        single = torch.eye(inside, dtype=x.dtype, device=x.device).reshape(inside, *w.shape[1:])
        kernels = single.repeat(self.groups, *[1] * (w.ndim - 1))
        kwargs: dict[str, Any] = dict(self.node.kwargs)
        patches = conv(x[: max(1, _ROWS // each)], kernels, None, **kwargs)
        rows = patches.flatten(2).reshape(len(patches), self.groups, inside, each)
        return rows.permute(1, 0, 3, 2).reshape(self.groups, -1, inside), each


class Foof:
    """The inverse moments of a module, and what they make of its gradients.

    Attributes:
        held: by the path of a parameter: the inverse, (groups, inputs, inputs), of a layer's weight; for
            others one number.
    """

    def __init__(self, module: fx.GraphModule, damping: float) -> None:
        """Find the layers; `damping` is in means of the diagonal."""
        self.module, self.damping, self.held = module, damping, State()
        self.layers = _layers(module)
        inside = [(layer.weight, layer.bias) for layer in self.layers.values()]
        self.covered = {path for pair in inside for path in pair if path is not None}

    @torch.no_grad()
    def renew(self, inputs: Sequence[Tensor]) -> None:
        """Take moments of some samples, the first axis of all inputs."""
        training = self.module.training
        _Watch(self).run(*inputs)
        self.module.train(training)

    @torch.no_grad()
    def apply(self) -> None:
        """Turn the gradients of all parameters."""
        parameters = dict(self.module.named_parameters())
        for layer in self.layers.values():
            paths = [path for path in (layer.weight, layer.bias) if path is not None]
            grads = [grad for path in paths if (grad := parameters[path].grad) is not None]
            if not grads:  # the loss does not depend on it
                continue
            rows = [layer.as_rows(grads[0]), *(g.reshape(layer.groups, -1, 1) for g in grads[1:])]
            made = torch.cat(rows, 2) @ self.held[layer.weight]
            grads[0].copy_(layer.as_weight(made[..., : rows[0].shape[2]], grads[0]))
            for bias in grads[1:]:
                bias.copy_(made[..., -1].reshape(-1))
        for path in self.held.keys() - {layer.weight for layer in self.layers.values()}:
            if (grad := parameters[path].grad) is not None:
                grad *= self.held[path]

    def inverse(self, moments: Tensor) -> Tensor:
        """Return the damped inverse of second moments, (groups, inputs, inputs)."""
        mean = moments.diagonal(dim1=1, dim2=2).mean(1)
        ridge = self.damping * mean.clamp(min=torch.finfo(torch.float32).tiny)
        ones = torch.eye(moments.shape[1], dtype=moments.dtype, device=moments.device)
        made: Tensor = torch.linalg.inv(moments + ridge[:, None, None] * ones)
        return made.float().contiguous()  # as a checkpoint gives it back: to the last bit


class _Watch(fx.Interpreter):
    """Runs a module in evaluation mode and takes the moments of each layer's inputs."""

    def __init__(self, foof: Foof) -> None:
        super().__init__(foof.module.eval())
        self.foof = foof
        self.parameters = dict(foof.module.named_parameters())

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        layer = self.foof.layers.get(n)
        if layer is not None:
            self._moments(layer, self.env[layer.reads], value)
        elif n.op not in {"get_attr", "placeholder", "output"} and isinstance(value, Tensor):
            for path in _others(self.foof.module, n):
                if path in self.parameters and path not in self.foof.covered:
                    size = value.numel() / max(1, len(value) if value.ndim else 1)
                    positions = max(1.0, size / self.parameters[path].numel())
                    factor = 1 / (positions * (1 + self.foof.damping))
                    self.foof.held[path] = torch.tensor(factor, device=value.device)
        return value

    def _moments(self, layer: _Layer, x: Tensor, y: Tensor) -> None:
        weight = self.parameters[layer.weight]
        rows, each = layer.inputs(x, y, weight)
        if layer.bias is not None:
            rows = torch.cat([rows, rows.new_ones(*rows.shape[:2], 1)], 2)
        moments = (rows.transpose(1, 2) @ rows).double() * (each / rows.shape[1])
        self.foof.held[layer.weight] = self.foof.inverse(moments)


def _layers(module: fx.GraphModule) -> dict[fx.Node, _Layer]:
    """Return the layers whose weight, a matrix or kernel, no other node reads."""
    held, found = dict(module.named_parameters()), {}

    def path(operand: object) -> str | None:
        if isinstance(operand, fx.Node) and operand.op == "get_attr" and len(operand.users) == 1:
            return str(operand.target) if operand.target in held else None
        return None

    for node in module.graph.nodes:
        if node.target not in (conv, gemm, matmul) or node.kwargs.get("transA"):
            continue
        weight, *more = map(path, node.args[1:])
        reads = node.args[0]
        if weight is None or not isinstance(reads, fx.Node):
            continue
        if node.target is not conv and held[weight].ndim != 2:
            continue
        layer = _Layer(node, reads, weight, None)
        _, outputs, inputs = layer.as_rows(held[weight]).shape
        if inputs <= _WIDEST:
            one_each = (layer.groups * outputs,)
            bias = next((name for name in more if name and held[name].shape == one_each), None)
            found[node] = dataclasses.replace(layer, bias=bias)
    return found


def _others(module: fx.GraphModule, node: fx.Node) -> list[str]:
    """Return the paths of what a node reads of the module, or has inside."""
    read = [str(a.target) for a in node.all_input_nodes if a.op == "get_attr"]
    if node.op == "call_module":
        inside = module.get_submodule(str(node.target)).named_parameters()
        read += [f"{node.target}.{name}" for name, _ in inside]
    return read
