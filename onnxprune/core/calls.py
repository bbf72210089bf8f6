"""Calls of local functions: inlined to be analysed, and calls again when written, if nothing changed.

The nodes of a function, with the names of one call, stand for the call while rules and surgery work.
On save they become the call again where they are still what the function says, on operands that may
have shrunk: a function of which no constant or attribute had to change is kept word for word.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from onnx import FunctionProto, NodeProto

from .scopes import bodies, captured_names
from .weights import Weight

FunctionKey = tuple[str, str, str]  # domain, name, overload


def function_key(of: NodeProto | FunctionProto) -> FunctionKey:
    """Return what a call and a function have in common."""
    name = of.op_type if isinstance(of, NodeProto) else of.name
    return ("" if of.domain == "ai.onnx" else of.domain), name, of.overload


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a local function.

    Attributes:
        node: the call.
        body: the nodes that stand for it, calls within it inlined as well.
        constants: what the function itself holds, under the names that `body` reads, and what was
            computed from it alone.
    """

    node: NodeProto
    body: tuple[NodeProto, ...]
    constants: Mapping[str, Weight]

    def noticing(self, weights: Mapping[str, Weight]) -> Call:
        """Return this call with what was folded of its constants."""
        known = set(self.constants)
        for node in self.body:
            if known.issuperset(filter(None, node.input)) and not any(bodies(node)):
                known.update(node.output)
        found = {name: weights[name] for name in known & weights.keys()}
        return dataclasses.replace(self, constants={**self.constants, **found})


@dataclasses.dataclass(frozen=True)
class Written:
    """A graph in the making, whose calls are put back one by one.

    Attributes:
        nodes: in topological order; None where a call stands for it.
        weights: by name.
        origin: of private copies.
        bound: graph outputs.
    """

    nodes: list[NodeProto | None]
    weights: Mapping[str, Weight]
    origin: Mapping[str, str]
    bound: frozenset[str]

    def put_back(self, calls: Sequence[Call]) -> list[NodeProto]:
        """Return the nodes with calls for all nodes that say what their function says."""
        for call in calls:  # outermost first
            self._put_back(call)
        return [node for node in self.nodes if node is not None]

    def _put_back(self, call: Call) -> None:
        place = {o: i for i, node in enumerate(self.nodes) if node for o in node.output if o}
        binding: dict[str, str] = {}
        inside: set[int] = set()
        for node in call.body:
            first = next(filter(None, node.output), "")
            index = place.get(first)
            if index is None and first in call.constants:
                continue  # folded
            found = None if index is None else self.nodes[index]
            if index is None or found is None or not self._same(node, found, call, binding):
                return
            inside.add(index)
        if not inside or not self._closed(call, inside):
            return
        node = NodeProto()
        node.CopyFrom(call.node)
        node.input[:] = [binding.get(name, name) for name in node.input]
        known = self.weights.keys() | place.keys() | self.bound
        if not all(name in known for name in node.input if name and name not in binding):
            return
        last = max(inside)
        for index in inside:
            self.nodes[index] = None
        self.nodes[last] = node

    def _same(self, said: NodeProto, found: NodeProto, call: Call, binding: dict[str, str]) -> bool:
        """Tell whether a node does what the function says; notes by what names it reads."""
        if len(said.input) != len(found.input) or any(bodies(said)):
            return False
        for old, new in zip(said.input, found.input, strict=True):
            if old != new and self.origin.get(new) != old:
                return False
            kept = call.constants.get(old)
            if kept is not None and not _equal(self.weights.get(new), kept):
                return False
            if not _equal_or_same(self.weights, binding.setdefault(old, new), new):
                return False
        twin = NodeProto()
        twin.CopyFrom(found)
        twin.input[:] = said.input
        return twin == said

    def _closed(self, call: Call, inside: set[int]) -> bool:
        """Tell whether nobody else reads what only the inside has, or reads the outputs too early."""
        hidden = {o for i in inside for o in self.nodes[i].output} - set(call.node.output)  # type: ignore[union-attr]
        if hidden & self.bound:
            return False
        last, outputs = max(inside), set(filter(None, call.node.output))
        for index, node in enumerate(self.nodes):
            if node is None or index in inside:
                continue
            reads = {*node.input, *captured_names(node)}
            if reads & hidden or (index < last and reads & outputs):
                return False
        return True


def _equal_or_same(weights: Mapping[str, Weight], a: str, b: str) -> bool:
    return a == b or (a in weights and _equal(weights.get(b), weights[a]))


def _equal(a: Weight | None, b: Weight) -> bool:
    if a is None or a is b:
        return a is not None
    if a.shape != b.shape or a.proto.data_type != b.proto.data_type:
        return False
    return a.array is b.array or a.array.tobytes() == b.array.tobytes()


def called(nodes: Iterable[NodeProto], functions: Sequence[FunctionProto]) -> set[FunctionKey]:
    """Return which functions nodes call, directly or through others."""
    table = {function_key(f): f for f in functions}
    found: set[FunctionKey] = set()
    waiting = [key for node in nodes for key in _keys(node)]
    while waiting:
        key = waiting.pop()
        if key in table and key not in found:
            found.add(key)
            waiting += [inner for node in table[key].node for inner in _keys(node)]
    return found


def _keys(node: NodeProto) -> Iterator[FunctionKey]:
    yield function_key(node)
    for body in bodies(node):
        for inner in body.node:
            yield from _keys(inner)
