"""ONNX -> PyTorch: a graph module whose parameters are the initializers of the file.

What is learned is a parameter, in the layout and under the name it has in the file; other constants
are buffers, or numbers written into the code. Lengths are numbers of Python, so that nothing waits
for values and `torch.compile` sees one graph.
"""

from __future__ import annotations

import operator as python
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from onnx import AttributeProto, ModelProto, NodeProto, helper, numpy_helper
from torch import Tensor, fx

from ..core.errors import ModelError, first_line
from ..core.graph import Graph
from . import ops as ops  # registers all operators
from .build import Builder, Constant, Value, identifier
from .learned import may_be, wanted
from .operators import HOST_OPS, TORCH_OPS, Form, Kind, Operator, refusal
from .source import constants, source
from .types import to_tensor

_OLDEST, _NEWEST = 7, 26  # opsets of the default domain
_FOLDED = 1 << 16  # elements: what is made of constants alone and is larger is made when it runs


def from_onnx(model: ModelProto | Graph | Path | str) -> fx.GraphModule:
    """Return a model as a PyTorch module, in evaluation mode.

    The module takes the inputs of the graph in their order and returns its output, or a tuple of
    them. Parameters are the float initializers that are learned (see `learned.py`), in ONNX layout,
    under their own names; where a module cannot have a name it is changed, and
    `module.meta["initializers"]` maps the one to the other. Small weights that the exporter merged
    are parameters of their own; large shared matrices stay tied. Nodes of the graph are named as
    the tensors of the file, whose names are in `node.meta["tensor"]`. BatchNormalization and Dropout
    follow `train()` and `eval()`.

    Raises:
        ModelError: in one line, if an operator is not carried to PyTorch; names the node.
    """
    graph = source(model)
    version = graph.opsets.get("", _NEWEST)
    if not _OLDEST <= version <= _NEWEST:
        raise ModelError(
            f"opset {version} cannot become PyTorch, {_OLDEST} to {_NEWEST} can: convert the file "
            "with onnx.version_converter"
        )
    conversion = _Conversion(graph)
    return conversion.builder.finish([conversion.values[v.name] for v in graph.outputs])


class _Conversion:
    """All nodes of a graph, one after the other; `values` are the tensors of the file by name."""

    def __init__(self, graph: Graph) -> None:
        self.opsets = graph.opsets
        self.builder = Builder()
        self.values: dict[str, Value] = {v.name: self.builder.input(v.name) for v in graph.inputs}
        kinds = wanted(graph)
        for name, array in constants(graph):
            shared, learned = graph.origin.get(name, name), may_be(array, kinds.get(name))
            self.values[name] = Constant(name, to_tensor(array), shared, learned)
        for node in graph.nodes:
            if node.op_type != "Constant":
                self._convert(node)

    def _convert(self, node: NodeProto) -> None:
        operands = [self.values[name] if name else None for name in node.input]
        if node.op_type == "Identity" and isinstance(operands[0], Constant):
            self.values[node.output[0]] = operands[0]  # another name; exporters merge weights so
            return
        operator, form = self._operator(node, operands)
        attributes = _attributes(node, operator)
        known = [x for x in operands if isinstance(x, Constant) and not x.learned]
        if known and len(known) == sum(x is not None for x in operands) and not operator.is_module:
            results = _computed(node, operator, operands, attributes)
            if sum(t.numel() for t in results) <= max(_FOLDED, *(x.tensor.numel() for x in known)):
                for name, tensor in zip(node.output, results, strict=False):
                    self.values[name] = Constant(name, tensor, name, computed=True)
                return
        made = self._called(node, operator, operands, attributes)
        if not operator.several:
            self.values[node.output[0]] = self.builder.traced(made, node.output[0], form)
            return
        for place, name in enumerate(node.output):
            if name:
                part = self.builder.graph.call_function(python.getitem, (made, place))
                self.values[name] = self.builder.traced(part, name)

    def _operator(self, node: NodeProto, operands: Sequence[Value | None]) -> tuple[Operator, Form]:
        """Return what computes a node, on numbers of Python if all operands are such, and the form."""
        host = HOST_OPS.get(node, self.opsets)
        forms = [x.form for x in operands if x is not None]
        if host is not None and host.form is not None and Form.TENSOR not in forms:
            form = host.form(forms)
            if form is not None and not all(isinstance(x, Constant) for x in operands):
                return host, form
        operator = TORCH_OPS.find(node, self.opsets)
        form = None if operator.form is None else operator.form(forms)
        return operator, Form.TENSOR if form is None else form

    def _called(
        self,
        node: NodeProto,
        operator: Operator,
        operands: Sequence[Value | None],
        attributes: dict[str, Any],
    ) -> fx.Node:
        """Enter a call into the graph; returns its node."""
        args = tuple(
            None if x is None else self.builder.operand(_kind(node, operator, slot), x)
            for slot, x in enumerate(operands)
        )
        keywords = {k: self._keyword(node, operator, k, v) for k, v in attributes.items()}
        if operator.is_module:
            fixed = [x for i, x in enumerate(operands) if operator.kind(i) is Kind.FIXED]
            if any(isinstance(x, Constant) and x.computed for x in fixed):
                raise refusal(node, "it trains values that the file computes: fold constants first")
            return self.builder.module(_title(node), operator.call(**attributes), args)
        if "like" in operator.keywords:
            keywords["like"] = self.builder.like
        name = identifier(node.output[0])
        return self.builder.graph.create_node("call_function", operator.call, args, keywords, name)

    def _keyword(self, node: NodeProto, operator: Operator, name: str, value: Any) -> Any:
        """Return an attribute as an argument; a tensor becomes a buffer, or numbers among numbers."""
        if not isinstance(value, Tensor):
            return value
        if operator.form is not None:
            return value.tolist()
        label = f"{_title(node)}.{name}"
        return self.builder.tensor(Constant(label, value, label))


def _title(node: NodeProto) -> str:
    return node.name or next(filter(None, node.output))


def _kind(node: NodeProto, operator: Operator, slot: int) -> Kind:
    kind = operator.kind(slot)
    if kind is Kind.ABSENT:
        raise refusal(node, f"operand {slot} is not carried")
    return kind


def _attributes(node: NodeProto, operator: Operator) -> dict[str, Any]:
    """Return attributes as keywords.

    Raises:
        ModelError: if the operator does not take one, or has more results than are carried.
    """
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        name, value = attribute.name, _value(attribute)
        if name in operator.only:
            if value not in operator.only[name]:
                known = " or ".join(map(str, operator.only[name]))
                raise refusal(node, f"attribute '{name}' is {value}, only {known} is carried")
        elif name in operator.keywords:
            found[name] = value
        elif name not in operator.ignores:
            raise refusal(node, f"attribute '{name}' is not carried")
    if "results" in operator.keywords:
        found["results"] = len(node.output)
    elif any(node.output[1:]) and not operator.several:
        raise refusal(node, f"it has {len(node.output)} results, one is carried")
    return found


def _value(attribute: AttributeProto) -> Any:
    """Return the value of an attribute as Python's, or as a tensor."""
    value = helper.get_attribute_value(attribute)
    if attribute.type == AttributeProto.TENSOR:
        return to_tensor(numpy_helper.to_array(value))
    if attribute.type == AttributeProto.STRING:
        return value.decode()
    if attribute.type == AttributeProto.STRINGS:
        return [item.decode() for item in value]
    return list(value) if isinstance(value, Sequence) else value


def _computed(
    node: NodeProto,
    operator: Operator,
    operands: Sequence[Value | None],
    attributes: dict[str, Any],
) -> list[Tensor]:
    """Return the results of a node on constants.

    Raises:
        ModelError: if they cannot be computed.
    """
    args = []
    for slot, x in enumerate(operands):
        tensor = x.tensor if isinstance(x, Constant) else None
        python = tensor is not None and _kind(node, operator, slot) is Kind.HOST
        args.append(tensor.tolist() if python and tensor is not None else tensor)
    if "like" in operator.keywords:
        attributes = attributes | {"like": torch.empty(0)}
    try:
        found = operator.call(*args, **attributes)
    except Exception as error:  # whatever PyTorch says of operands that do not fit
        raise refusal(node, first_line(error)) from error
    return [torch.as_tensor(value) for value in (found if operator.several else [found])]
