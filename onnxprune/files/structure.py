"""Checks of a model message that native code relies on: text is text, calls end, names are given.

What onnx's checker and onnxruntime refuse themselves is left to them; here is what crashes or hangs
them, or us.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf.message import Message
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from ..core.errors import ModelError
from ..core.scopes import bodies

# Nodes, once every call of a function is replaced by its body: so many, or so many per written node.
# Exporters write a function per module, called once or once a layer.
_MOST_INLINED, _MOST_COPIES = 2000, 50
_ELEMENT_TYPES = frozenset(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}
_VERSIONS_END = 2**31  # versions are counted from 1; native code reads them as 32 bits
_DEEPEST = 32  # bodies within bodies


def check_structure(model: ModelProto, path: Path) -> None:
    """Refuse a message whose text is no text, or whose functions or bodies nest without end.

    Raises:
        ModelError: naming what is wrong.
    """
    for owner in _owners(model):
        _check_text(owner, path)
    if not 0 < model.ir_version < _VERSIONS_END:
        raise ModelError(
            f"'{path}' has IR version {model.ir_version}, which is none: export it again"
        )
    for opset in (*model.opset_import, *(o for f in model.functions for o in f.opset_import)):
        if not 0 < opset.version < _VERSIONS_END:
            raise ModelError(
                f"'{path}' asks for opset {opset.version} of domain '{opset.domain or 'ai.onnx'}', "
                "which is none: export it again"
            )
    for value in (*model.graph.input, *model.graph.output):
        kind = value.type.tensor_type.elem_type
        if value.type.HasField("tensor_type") and kind not in _ELEMENT_TYPES:
            raise ModelError(
                f"'{path}': '{value.name}' has the unknown element type {kind}: export the model again"
            )
    _check_calls(model, path)


def _owners(model: ModelProto) -> Iterator[Message]:
    """Yield every message of the model that has names."""
    yield model
    yield from model.opset_import
    for function in model.functions:
        yield from (function, *function.opset_import)
        yield from _of_nodes(function.node, 0)
    yield from _of_graph(model.graph, 0)


def _of_graph(graph: GraphProto, depth: int) -> Iterator[Message]:
    yield graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield from (value, *value.type.tensor_type.shape.dim)
    yield from graph.initializer
    yield from _of_nodes(graph.node, depth)


def _of_nodes(nodes: Iterable[NodeProto], depth: int) -> Iterator[Message]:
    for node in nodes:
        yield from (node, *node.attribute)
        for body in bodies(node):
            if depth == _DEEPEST:
                raise ModelError(
                    f"node '{node.name}' nests bodies deeper than {_DEEPEST}: export the model again"
                )
            yield from _of_graph(body, depth + 1)


_TEXT_FIELDS: dict[type, list[tuple[str, bool]]] = {}


def _check_text(owner: Message, path: Path) -> None:
    """Refuse text that is not UTF-8: the parser hands it on as bytes."""
    kind = type(owner)
    if kind not in _TEXT_FIELDS:
        _TEXT_FIELDS[kind] = [
            (field.name, field.is_repeated)
            for field in owner.DESCRIPTOR.fields
            if field.type == field.TYPE_STRING
        ]
    for name, repeated in _TEXT_FIELDS[kind]:
        value = getattr(owner, name)
        for text in value if repeated else (value,):
            if not isinstance(text, str):
                raise ModelError(
                    f"'{path}': the {name} {text!r:.80} of a {owner.DESCRIPTOR.name} is no UTF-8 text: "
                    "the file is damaged, export or download it again"
                )


def _check_calls(model: ModelProto, path: Path) -> None:
    """Refuse functions that call themselves, or that inline to an absurd number of nodes."""
    functions = {(f.domain, f.name): f for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Iterable[NodeProto], open_calls: tuple[tuple[str, str], ...]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in functions:
                if key in open_calls:
                    raise ModelError(
                        f"'{path}': function '{key[1]}' of domain '{key[0]}' calls itself: "
                        "export the model without recursion"
                    )
                if key not in sizes:
                    sizes[key] = size(functions[key].node, (*open_calls, key))
                total += sizes[key]
            total += 1 + sum(size(body.node, open_calls) for body in bodies(node))
        return total

    found = max(
        [size(f.node, (key,)) for key, f in functions.items()] + [size(model.graph.node, ())]
    )
    written = len(model.graph.node) + sum(len(f.node) for f in functions.values())
    if found > (most := max(_MOST_INLINED, _MOST_COPIES * written)):
        raise ModelError(
            f"'{path}' is {found} nodes once its functions are inlined, expected at most {most} "
            f"from the {written} that are written: export it with fewer nested functions"
        )
