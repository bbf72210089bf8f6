"""The graph module in the making: constants become parameters, buffers or numbers, results nodes."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import torch
from torch import Tensor, fx, nn

from .names import Names
from .operators import Form, Kind


@dataclasses.dataclass(frozen=True)
class Constant:
    """A tensor that is known: of the file, under its name there, or made of such.

    Attributes:
        name: of its own.
        shared: under which equal tensors are one buffer.
        learned: whether it is a parameter.
        computed: of other constants; the file has no such tensor.
    """

    name: str
    tensor: Tensor
    shared: str
    learned: bool = False
    computed: bool = False

    @property
    def form(self) -> Form:
        """What it can be in Python."""
        if self.learned or self.tensor.ndim > 1:
            return Form.TENSOR
        if self.tensor.ndim == 0:
            return Form.NUMBER
        return Form.ONE if len(self.tensor) == 1 else Form.LIST


@dataclasses.dataclass(frozen=True)
class Traced:
    """A result of the graph."""

    node: fx.Node
    form: Form = Form.TENSOR


Value = Constant | Traced


class Builder:
    """Nodes of the graph, and what the module holds, by path.

    Attributes:
        initializers: of the values that training changes, by path.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.graph = fx.Graph()
        self.initializers: dict[str, str] = {}
        self._root: dict[str, Any] = {}
        self._names = Names()
        self._fetched: dict[tuple[str, bool], fx.Node] = {}
        self._inputs: list[fx.Node] = []

    def input(self, name: str) -> Traced:
        """Enter an input of the graph."""
        self._inputs.append(self.graph.placeholder(identifier(name)))
        return self.traced(self._inputs[-1], name)

    def traced(self, node: fx.Node, name: str, form: Form = Form.TENSOR) -> Traced:
        """Return a result of the graph; its node remembers which tensor of the file it is."""
        node.meta["tensor"] = name
        return Traced(node, form)

    @property
    def like(self) -> fx.Node | None:
        """A tensor on the device on which all is computed."""
        return self._inputs[0] if self._inputs else None

    def operand(self, kind: Kind, value: Value) -> Any:
        """Return a value as an operator wants it: a node of the graph, or numbers of Python."""
        python = kind is Kind.HOST or (kind is Kind.EITHER and value.form is Form.NUMBER)
        if not python:
            return self.tensor(value, running=kind is Kind.FIXED)
        if isinstance(value, Constant):
            return value.tensor.tolist()
        if value.form is Form.TENSOR:
            return self.graph.call_function(to_python, (value.node,))
        return value.node

    def tensor(self, value: Value, *, running: bool = False) -> fx.Node:
        """Return a value as a tensor; `running` values are buffers of their own."""
        if isinstance(value, Traced):
            if value.form is Form.TENSOR:
                return value.node
            return self.graph.call_function(to_tensor, (value.node, self.like))
        own = running or value.learned
        key = value.name if own else value.shared
        if (key, own) not in self._fetched:
            path = self._names.path(key)
            self._root[path] = nn.Parameter(value.tensor) if value.learned else value.tensor
            if own and not value.computed:
                self.initializers[path] = value.name
            self._fetched[key, own] = self.graph.get_attr(path)
        return self._fetched[key, own]

    def module(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> fx.Node:
        """Enter a call of a module, which the graph module then holds."""
        path = self._names.path(name)
        self._root[path] = module
        return self.graph.call_module(path, args)

    def finish(self, outputs: list[Value]) -> fx.GraphModule:
        """Return the module, in evaluation mode, without what nothing reads."""
        results = tuple(self.tensor(value) for value in outputs)
        self.graph.output(results[0] if len(results) == 1 else results)
        for node in reversed(self.graph.nodes):
            if not node.users and node.op not in {"placeholder", "output"}:
                self.graph.erase_node(node)  # no call has an effect but its result
        used = {node.target for node in self.graph.nodes}
        module = fx.GraphModule({k: v for k, v in self._root.items() if k in used}, self.graph)
        module.meta["initializers"] = {k: v for k, v in self.initializers.items() if k in used}
        return module.eval()


def identifier(name: str) -> str:
    """Return a name that Python takes for a variable."""
    return re.sub(r"^(?=\d)|\W", "_", name)


def to_python(x: Tensor) -> Any:
    """Return the values of a tensor as numbers of Python; this waits for them."""
    return x.tolist()


def to_tensor(value: Any, like: Tensor | None) -> Tensor:
    """Return numbers of Python as a tensor."""
    return torch.tensor(value, device=None if like is None else like.device)
