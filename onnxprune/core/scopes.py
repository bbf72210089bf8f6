"""Bodies of If laid open, so that rules and surgery see one graph; and put back when it is written.

The nodes of a body then stand before the node that has it, under names that are unique in the whole
model. The body itself stays there *hollow*: its notes and the names of its outputs, which the node
reads by them. `Graph.scopes` says which body each tensor belongs to. What runs is always the nested
form: a body that is not chosen may not be able to run at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper

Key = tuple[str, str]  # the first tensor that a node makes, the attribute that is the body
Scope = tuple[Key, ...]  # outermost first; () is the graph itself


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the subgraphs of a control-flow node."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def captured_names(node: NodeProto) -> list[str]:
    """Return the outer-scope tensors that the bodies of If, Loop and Scan read."""
    names: dict[str, None] = {}
    for body in bodies(node):
        names.update(dict.fromkeys(free_names(body)))
    return list(names)


def free_names(body: GraphProto) -> list[str]:
    """Return the tensors that a graph reads and does not have."""
    names: dict[str, None] = {}
    inner = _defined(body)
    for node in body.node:
        reads = [*node.input, *captured_names(node)]
        names.update({name: None for name in reads if name and name not in inner})
    names.update({v.name: None for v in body.output if v.name not in inner})
    return list(names)


def _defined(body: GraphProto) -> set[str]:
    names = {v.name for v in body.input} | {t.name for t in body.initializer}
    names |= {t.values.name for t in body.sparse_initializer}
    return names | {name for node in body.node for name in node.output}


def names_in(nodes: Iterable[NodeProto]) -> set[str]:
    """Return every name that nodes and their bodies use for a tensor."""
    names: set[str] = set()
    for node in nodes:
        names.update(node.input, node.output)
        for body in bodies(node):
            names |= _defined(body) | names_in(body.node) | {v.name for v in body.output}
    return names


def is_hollow(body: GraphProto) -> bool:
    """Tell whether a body holds nothing itself: its nodes stand in the graph around it."""
    return not (body.node or body.initializer or body.sparse_initializer or body.input)


def is_choice(node: NodeProto) -> bool:
    """Tell whether a node is an If that a body can be told of: it makes something."""
    return node.op_type == "If" and node.domain in {"", "ai.onnx"} and any(node.output)


def rename(node: NodeProto, table: Mapping[str, str]) -> None:
    """Give the tensors that a node and its bodies read, and that it makes, new names."""
    node.input[:] = [table.get(name, name) for name in node.input]
    node.output[:] = [table.get(name, name) for name in node.output]
    for body in bodies(node):
        inner = _defined(body)
        outer = {old: new for old, new in table.items() if old not in inner}
        for sub in body.node:
            rename(sub, outer)
        for value in body.output:
            value.name = outer.get(value.name, value.name)


def key_of(node: NodeProto, attribute: str) -> Key:
    """Return the key of a body."""
    return next(filter(None, node.output), ""), attribute


class Opened:
    """Lays the bodies of nodes open.

    Attributes:
        nodes: of the graph and of all bodies of If, in topological order.
        tensors: initializers of the bodies, by their new names.
        scopes: of every tensor that a node makes or a body holds.
    """

    def __init__(self, nodes: Iterable[NodeProto], taken: Iterable[str]) -> None:
        """Open the bodies of `nodes`, which are changed; `taken` are further names in use."""
        top = list(nodes)
        self.nodes: list[NodeProto] = []
        self.tensors: dict[str, TensorProto] = {}
        self.scopes: dict[str, Scope] = {}
        self._taken = {*taken, *(name for node in top for name in node.output)}
        self._used = names_in(top)
        self._add(top, ())

    def _add(self, nodes: Iterable[NodeProto], scope: Scope) -> None:
        for node in nodes:
            if is_choice(node):
                for attribute in node.attribute:
                    if attribute.type == AttributeProto.GRAPH and _opens(attribute.g):
                        self._open(attribute.g, (*scope, key_of(node, attribute.name)))
            self.nodes.append(node)
            self.scopes.update(dict.fromkeys(filter(None, node.output), scope))

    def _open(self, body: GraphProto, scope: Scope) -> None:
        made = _defined(body) - {""}
        table = {name: self._fresh(name) for name in sorted(made & self._taken)}
        self._taken |= made
        nodes = list(body.node)
        for node in nodes:
            rename(node, table)
        for value in (*body.output, *body.value_info):
            value.name = table.get(value.name, value.name)
        for tensor in body.initializer:
            tensor.name = table.get(tensor.name, tensor.name)
            self.tensors[tensor.name] = tensor
            self.scopes[tensor.name] = scope
        self._add(nodes, scope)
        del body.node[:], body.initializer[:]

    def _fresh(self, base: str) -> str:
        name = _fresh(base, self._taken | self._used)
        self._taken.add(name)
        return name


def _fresh(base: str, taken: set[str]) -> str:
    """Return `base`, or `base_1`, `base_2`, ... whichever is not taken; now it is."""
    name, count = base, 0
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    taken.add(name)
    return name


def _opens(body: GraphProto) -> bool:
    inside = all(t.data_location != TensorProto.EXTERNAL for t in body.initializer)
    return inside and not (body.input or body.sparse_initializer)


def settle(
    nodes: Sequence[NodeProto], scopes: Mapping[str, Scope], chosen: Mapping[str, str]
) -> tuple[list[NodeProto], dict[str, Scope]]:
    """Take the bodies that are known to run into the scope around them, and leave out the others.

    Args:
        nodes: laid open.
        scopes: theirs.
        chosen: attribute of the body that runs, by the first output of its node.

    Returns:
        The nodes and their scopes.
    """

    def lifted(scope: Scope) -> Scope | None:
        if any(chosen.get(made, attribute) != attribute for made, attribute in scope):
            return None
        return tuple(key for key in scope if key[0] not in chosen)

    kept: list[NodeProto] = []
    names: set[str] = set()
    for node in nodes:
        first = next(filter(None, node.output), "")
        if lifted(scopes.get(first, ())) is None:
            continue
        if first not in chosen:
            if node.name in names:  # of its own body it was the only one
                node.name = _fresh(node.name, names)
            names.update({node.name} - {""})
            kept.append(node)
            continue
        body = next(a.g for a in node.attribute if a.name == chosen[first])
        kept += [
            helper.make_node("Identity", [value.name], [output])
            for value, output in zip(body.output, node.output, strict=True)
            if output
        ]
    places = {name: lifted(scope) for name, scope in scopes.items()}
    return kept, {name: scope for name, scope in places.items() if scope is not None}


def fill(
    graph: GraphProto,
    nodes: Sequence[NodeProto],
    tensors: Iterable[TensorProto],
    scopes: Mapping[str, Scope],
) -> None:
    """Append nodes and initializers to `graph`, those of bodies laid open to their bodies."""
    places: dict[Scope, list[NodeProto]] = {}
    for node, scope in zip(nodes, _places(nodes, scopes), strict=True):
        places.setdefault(scope, []).append(node)
    held: dict[Scope, list[TensorProto]] = {}
    for tensor in tensors:  # one at a time: all of a large model would be held twice
        scope = scopes.get(tensor.name, ())
        if not scope or tensor.data_location == TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        else:
            held.setdefault(scope, []).append(tensor)
    taken = {*scopes, *names_in(nodes)} if scopes else set()
    _fill(graph, (), places, held, taken)


def _fill(
    graph: GraphProto,
    scope: Scope,
    places: Mapping[Scope, list[NodeProto]],
    held: Mapping[Scope, list[TensorProto]],
    taken: set[str],
) -> None:
    graph.initializer.extend(held.get(scope, ()))
    for source in places.get(scope, ()):
        node = graph.node.add()
        node.CopyFrom(source)
        for attribute in node.attribute:
            inner = (*scope, key_of(node, attribute.name))
            if attribute.type == AttributeProto.GRAPH and (
                inner in places or inner in held or is_hollow(attribute.g)
            ):
                _fill(attribute.g, inner, places, held, taken)
    if scope:
        _make_outputs(graph, taken)


def _make_outputs(body: GraphProto, taken: set[str]) -> None:
    """Let nodes of the body itself make its outputs: onnxruntime takes nothing else."""
    made = {name for node in body.node for name in node.output}
    for value in body.output:
        if value.name in made:
            continue
        name = _fresh(f"{value.name}::out", taken)
        body.node.append(helper.make_node("Identity", [value.name], [name]))
        value.name = name


def _places(nodes: Sequence[NodeProto], scopes: Mapping[str, Scope]) -> list[Scope]:
    """Return each node's scope: a new node stands as deep as all who read it have in common."""
    if not scopes:
        return [()] * len(nodes)
    needed: dict[str, Scope] = {}

    def need(name: str, scope: Scope) -> None:
        needed[name] = _common(needed[name], scope) if name in needed else scope

    found: list[Scope] = []
    for node in reversed(nodes):
        given = [scopes[name] for name in node.output if name in scopes]
        wanted = [needed[name] for name in node.output if name in needed]
        place = given[0] if given else ()
        if not given and wanted:
            place = wanted[0]
            for other in wanted[1:]:
                place = _common(place, other)
        found.append(place)
        for name in node.input:
            need(name, place)
        for attribute in node.attribute:
            inner = (*place, key_of(node, attribute.name))
            hollow = attribute.type == AttributeProto.GRAPH and is_hollow(attribute.g)
            for value in attribute.g.output if hollow else ():
                need(value.name, inner)
        if not all(map(is_hollow, bodies(node))):
            for name in captured_names(node):
                need(name, place)
    return found[::-1]


def _common(a: Scope, b: Scope) -> Scope:
    shared = 0
    while shared < min(len(a), len(b)) and a[shared] == b[shared]:
        shared += 1
    return a[:shared]
