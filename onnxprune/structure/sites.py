"""Where weights are read, and what exporters noted there: names that outlive a new export."""

from __future__ import annotations

import ast

from onnx import NodeProto

from ..core.graph import Graph

_SCOPES = "pkg.torch.onnx.name_scopes"


def made_by(node: NodeProto) -> str:
    """Return the first tensor that a node makes: exporters derive its name from the source code."""
    return next(filter(None, node.output), "")


def site(node: NodeProto, slot: int) -> str:
    """Return the name of one input of a node."""
    return f"{made_by(node)}:{slot}"


def by_site(graph: Graph) -> dict[str, str]:
    """Map every place where a weight is read to the weight."""
    return {
        site(node, slot): name
        for node in graph.nodes
        for slot, name in enumerate(node.input)
        if name in graph.weights
    }


def first_readers(graph: Graph) -> dict[str, tuple[NodeProto, int]]:
    """Map each weight to the first node and slot that reads it."""
    readers: dict[str, tuple[NodeProto, int]] = {}
    for node in graph.nodes:
        for slot, name in enumerate(node.input):
            if name in graph.weights:
                readers.setdefault(name, (node, slot))
    return readers


def module(node: NodeProto) -> str | None:
    """Return the PyTorch module a node came from, as either exporter notes it.

    Dynamo: metadata `name_scopes`, "['', 'a', 'a.0', 'conv2d']". TorchScript: the node's name,
    "/a/a.0/Conv"; a part that does not repeat its parent is a child of it.
    """
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            return _from_scopes(entry.value)
    path = ""
    for part in node.name.split("/")[1:-1] if node.name.startswith("/") else ():
        path = part if not path or part.startswith(f"{path}.") else f"{path}.{part}"
    return path or None


def _from_scopes(text: str) -> str | None:
    """Return the innermost module of a printed list of scopes; the last scope is the operator."""
    try:
        scopes = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None  # a note for people: some other exporter writes it in its own way
    is_list = isinstance(scopes, list) and len(scopes) > 1
    return str(scopes[-2]) or None if is_list else None
