"""Local functions, inlined: what a function does with its operands is seen through its calls.

A call stays one, and with it what it touches, where inlining would change a meaning (the function
was written for another opset in which an operator differs), never end (it calls itself), or make the
graph grow beyond measure (functions of functions of functions).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

import numpy as np
import onnx.defs
from onnx import AttributeProto, FunctionProto, NodeProto, helper

from ..core.calls import Call, FunctionKey, function_key
from ..core.graph import Graph, Weight, constant, unique_name
from ..core.scopes import bodies, key_of, rename

log = logging.getLogger(__name__)

_MOST_NODES = 100_000  # that all calls together may become
_DEEPEST = 100  # calls within calls


def inlined(graph: Graph) -> Graph:
    """Return `graph` with its calls of local functions inlined; it remembers them."""
    functions = graph.shell.functions
    if not functions:
        return graph
    result = graph.copy()
    inliner = _Inliner(result)
    result.nodes = inliner.all(result.nodes)
    result.calls = tuple(inliner.calls)
    return result


class _Inliner:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.table = {
            function_key(f): f for f in graph.shell.functions if _means_the_same(f, graph)
        }
        self.taken = graph.names
        self.titles = {node.name for node in graph.nodes}
        self.held: dict[tuple[FunctionKey, str], str] = {}
        self.calls: list[Call] = []
        self.sizes: dict[FunctionKey, float] = {}
        self.left: float = _MOST_NODES

    def all(self, nodes: Iterable[NodeProto]) -> list[NodeProto]:
        """Return the nodes with every call replaced, those in bodies of If too."""
        result: list[NodeProto] = []
        for node in nodes:
            key = function_key(node)
            function = self.table.get(key)
            if function is not None and self._fits(key):
                result += self._inline(node, function)
                continue
            if node.op_type == "If":
                for body in bodies(node):
                    inner = self.all(list(body.node))
                    del body.node[:]
                    body.node.extend(inner)
            result.append(node)
        return result

    def _fits(self, key: FunctionKey) -> bool:
        """Tell whether a call, with all calls within it, fits what is left; counts it if so."""
        if self._size(key) > self.left:
            log.info(
                "calls of function '%s' stay: they would never end, or become too many", key[1]
            )
            return False
        self.left -= len(self.table[key].node)
        return True

    def _size(self, key: FunctionKey, depth: int = 0) -> float:
        """Return how many nodes a call becomes; infinite if it calls itself."""
        if depth > _DEEPEST:
            return np.inf
        if key not in self.sizes:
            self.sizes[key] = np.inf  # while it is counted
            calls = (function_key(node) for node in _nodes(self.table[key].node))
            self.sizes[key] = sum(self._size(k, depth + 1) if k in self.table else 1 for k in calls)
        return self.sizes[key]

    def _inline(self, call: NodeProto, function: FunctionProto) -> list[NodeProto]:
        key, spot = function_key(function), len(self.calls)
        _import(self.graph, function)
        given = {a.name: a for a in (*function.attribute_proto, *call.attribute)}
        table = dict(zip(function.input, [*call.input, *[""] * len(function.input)], strict=False))
        made = {name for node in function.node for name in node.output if name}
        ends: list[NodeProto] = []
        for formal, actual in zip(function.output, call.output, strict=False):
            if formal in made and actual and formal not in table:
                table[formal] = actual
            elif actual:  # an operand handed through, or one result under two names
                ends.append(NodeProto(op_type="Identity", input=[formal], output=[actual]))
        constants: dict[str, Weight] = {}
        nodes: list[NodeProto] = []
        for source in function.node:
            node = NodeProto()
            node.CopyFrom(source)
            own = _fill_in(node, given)
            if (value := _value(node)) is not None and node.output[0] not in function.output:
                name = node.output[0]
                table[name] = self._hold(key if not own else None, function, name, value)
                constants[table[name]] = self.graph.weights[table[name]]
            else:
                nodes.append(node)
        for name in sorted(made - table.keys()):
            table[name] = self._fresh(f"{key_of(call, '')[0]}/{name}")
        for node in (*nodes, *ends):
            _rename(node, table)
            node.name = self._title(f"{call.name}/{node.name}") if node.name else ""
        expanded = self.all([*nodes, *ends])
        inner = {n: w for c in self.calls[spot:] for n, w in c.constants.items()}
        body = tuple(_copy(node) for node in expanded)
        self.calls.insert(spot, Call(_copy(call), body, {**constants, **inner}))
        return expanded

    def _hold(
        self, key: FunctionKey | None, function: FunctionProto, name: str, value: Weight
    ) -> str:
        """Enter a constant of a function as a weight, once for all calls that have the same."""
        if key is not None and (key, name) in self.held:
            return self.held[key, name]
        fresh = self._fresh(f"{function.name}/{name}")
        self.graph.weights[fresh] = value
        if key is not None:
            self.held[key, name] = fresh
        return fresh

    def _fresh(self, base: str) -> str:
        name = unique_name(base, self.taken)
        self.taken.add(name)
        return name

    def _title(self, base: str) -> str:
        name = unique_name(base, self.titles)
        self.titles.add(name)
        return name


def _copy(node: NodeProto) -> NodeProto:
    twin = NodeProto()
    twin.CopyFrom(node)
    return twin


def _rename(node: NodeProto, table: dict[str, str]) -> None:
    """Rename, and end the list of inputs before operands that were not given."""
    rename(node, table)
    while node.input and not node.input[-1]:
        del node.input[-1]


def _fill_in(node: NodeProto, given: dict[str, AttributeProto]) -> bool:
    """Write the attributes of a call where a function refers to them; tell whether it does."""
    refers = False
    for index in reversed(range(len(node.attribute))):
        attribute = node.attribute[index]
        if not attribute.ref_attr_name:
            continue
        refers, name = True, attribute.name
        source = given.get(attribute.ref_attr_name)
        if source is None:
            del node.attribute[index]
            continue
        attribute.CopyFrom(source)
        attribute.name = name
    for body in bodies(node):
        for inner in body.node:
            refers |= _fill_in(inner, given)
    return refers


def _value(node: NodeProto) -> Weight | None:
    """Return what a Constant holds; None for other nodes and sparse values."""
    if node.op_type != "Constant" or node.domain not in {"", "ai.onnx"} or len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    if attribute.type == AttributeProto.TENSOR:
        return Weight(attribute.t)
    dtypes = {"value_float": np.float32, "value_int": np.int64, "value_string": object}
    dtype = dtypes.get(attribute.name.removesuffix("s"))
    if dtype is None:
        return None
    return constant("", np.array(helper.get_attribute_value(attribute), dtype))


def _import(graph: Graph, function: FunctionProto) -> None:
    """Import the domains that only the function knew until now."""
    known = {o.domain for o in graph.shell.opset_import}
    for entry in function.opset_import:
        if entry.domain not in known and not (entry.domain == "ai.onnx" and "" in known):
            graph.shell.opset_import.add().CopyFrom(entry)
            graph.__dict__.pop("opsets", None)


def _means_the_same(function: FunctionProto, graph: Graph) -> bool:
    """Tell whether every operator of a function means the same at the opsets of the model."""
    versions = {
        ("" if o.domain == "ai.onnx" else o.domain): o.version for o in function.opset_import
    }
    for node in _nodes(function.node):
        domain = "" if node.domain == "ai.onnx" else node.domain
        theirs, ours = versions.get(domain), graph.opsets.get(domain)
        if theirs == ours or theirs is None or ours is None:
            continue
        if _since(node.op_type, theirs, domain) != _since(node.op_type, ours, domain):
            log.info(
                "function '%s' stays: %s of opset %d is not that of opset %d",
                function.name, node.op_type, theirs, ours,
            )  # fmt: skip
            return False
    return True


def _since(op_type: str, version: int, domain: str) -> int:
    try:
        return int(onnx.defs.get_schema(op_type, version, domain).since_version)
    except onnx.defs.SchemaError:
        return 0


def _nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for body in bodies(node):
            yield from _nodes(body.node)
