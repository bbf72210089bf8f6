"""Removes the positions of a mask from weights, attributes and shape operands; proves nothing yet.

Precondition: the mask is valid (a union of units that empties no axis). Postcondition: every tensor
axis has exactly the kept positions; nodes are the same but for picks (Slice, Gather), paddings and
computed shapes that had to be rewritten.
"""

from __future__ import annotations

import logging
from itertools import chain

from onnx import ValueInfoProto

from onnxprune.core.analysis import Mask
from onnxprune.core.contracts import SURGERIES
from onnxprune.core.graph import Graph, Weight
from onnxprune.core.interface import interface_of, write_interface
from onnxprune.core.scopes import bodies, captured_names

from ._fixes import Rewriter

log = logging.getLogger(__name__)


@SURGERIES.register("channels")
def remove_channels(mask: Mask) -> Graph:
    """Return the graph of `mask.analysis` without the removed positions.

    Raises:
        InternalError: if the mask is not valid.
    """
    mask.check()
    graph = mask.analysis.graph.copy()
    for name in graph.weights:
        graph.weights[name] = _sliced(graph, mask, name)
    rewriter = Rewriter(graph, mask)
    nodes = []
    for record in mask.analysis.records:
        nodes.extend(rewriter.rewrite(graph.nodes[record.index], record))
    graph.nodes = nodes
    shown = graph.shell.graph
    notes = [shown.input, shown.output, shown.value_info]
    notes += [n for node in nodes for body in bodies(node) for n in (body.output, body.value_info)]
    for value in chain.from_iterable(notes):
        _resize(value, mask)
    _forget_unread(graph, mask)
    write_interface(graph, interface_of(mask))
    return graph


def _sliced(graph: Graph, mask: Mask, name: str) -> Weight:
    weight = graph.weights[name]
    for number in range(len(weight.shape)):
        gone = mask.gone_at(name, number)
        if gone is not None:
            weight = weight.without(number, gone)
    return weight


def _resize(value: ValueInfoProto, mask: Mask) -> None:
    """Write the kept lengths into the file's own shape notes."""
    for number, dim in enumerate(value.type.tensor_type.shape.dim):
        gone = mask.gone_at(value.name, number)
        if gone is not None and dim.HasField("dim_value"):
            dim.dim_value = int((~gone).sum())


def _forget_unread(graph: Graph, mask: Mask) -> None:
    """Drop weights that a rewritten node no longer reads."""
    before = {name for node in mask.analysis.graph.nodes for name in node.input}
    after = {name for node in graph.nodes for name in [*node.input, *captured_names(node)]}
    after |= graph.bound
    for name in before - after:
        graph.weights.pop(name, None)
