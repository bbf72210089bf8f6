"""Our view of an ONNX file: nodes, weights and their names; reads and writes without loss.

What pruning does not touch is never re-encoded: node and tensor messages of the file are kept as
they are (metadata, doc strings, odd types), and only edited tensors are written anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterable, Mapping
from functools import cached_property
from pathlib import Path

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from .calls import Call, Written, called, function_key
from .scopes import Opened, Scope, captured_names, fill, free_names, names_in, settle
from .weights import Array as Array
from .weights import Weight as Weight
from .weights import bits_of as bits_of
from .weights import constant as constant
from .weights import data_type_name as data_type_name

_FREE_INITIALIZERS = 4  # from this IR version on, initializers need not be listed as inputs


@dataclasses.dataclass
class Graph:
    """A model as nodes in topological order plus weights by name.

    `shell` is the model message without nodes and initializers: inputs, outputs, opsets, functions
    and metadata stay in it untouched. `origin` maps a private copy of a weight to the name it had.
    """

    shell: ModelProto
    nodes: list[NodeProto]
    weights: dict[str, Weight]
    origin: dict[str, str] = dataclasses.field(default_factory=dict)
    external: bool = False
    listed: frozenset[str] = frozenset()  # weights the file also lists as inputs (IR 3, defaults)
    scopes: dict[str, Scope] = dataclasses.field(default_factory=dict)  # of bodies laid open
    calls: tuple[Call, ...] = ()  # of local functions, inlined

    @classmethod
    def from_model(cls, model: ModelProto, folder: Path | None = None) -> Graph:
        """Split `model` (left untouched) into shell, nodes and weights."""
        shell = ModelProto()
        shell.CopyFrom(_without_payload(model))
        weights = {t.name: Weight(t, folder) for t in model.graph.initializer}
        for name in _defaults(model):
            shell.graph.initializer.append(weights.pop(name).proto)
        external = any(w.proto.data_location == TensorProto.EXTERNAL for w in weights.values())
        nodes = []
        for node in model.graph.node:
            copy = NodeProto()
            copy.CopyFrom(node)
            nodes.append(copy)
        listed = frozenset(v.name for v in shell.graph.input if v.name in weights)
        return cls(shell, nodes, weights, external=external, listed=listed)

    def copy(self) -> Graph:
        """Return a copy whose nodes and weight table may be edited; values are shared."""
        nodes = []
        for node in self.nodes:
            twin = NodeProto()
            twin.CopyFrom(node)
            nodes.append(twin)
        shell = ModelProto()
        shell.CopyFrom(self.shell)
        return Graph(
            shell,
            nodes,
            dict(self.weights),
            dict(self.origin),
            self.external,
            self.listed,
            dict(self.scopes),
            self.calls,
        )

    def opened(self) -> Graph:
        """Return this graph with the bodies of If laid open (see `scopes`)."""
        result = self.copy()
        names = [*result.weights, *(v.name for v in result.shell.graph.input)]
        opened = Opened(result.nodes, names)
        if len(opened.nodes) > len(result.nodes) or opened.tensors:
            result.nodes, result.scopes = opened.nodes, opened.scopes
            result.weights |= {name: Weight(tensor) for name, tensor in opened.tensors.items()}
        return result

    def settled(self, chosen: Mapping[str, str]) -> Graph:
        """Return this graph with the bodies that are known to run taken into what is around them.

        Args:
            chosen: attribute of the body that runs, by the first output of its node.
        """
        result = self.copy()
        result.nodes, result.scopes = settle(result.nodes, result.scopes, chosen)
        return result

    @property
    def inputs(self) -> list[ValueInfoProto]:
        """Graph inputs that a caller feeds (initializers listed as inputs are left out)."""
        left_out = self.listed | {t.name for t in self.shell.graph.initializer}
        return [v for v in self.shell.graph.input if v.name not in left_out]

    @property
    def defaults(self) -> list[TensorProto]:
        """Values of the inputs that a caller may leave out: no constants, so no weights of ours."""
        return list(self.shell.graph.initializer)

    @cached_property
    def trained(self) -> frozenset[str]:
        """Tensors that the training algorithms in the file read or update."""
        names: set[str] = set()
        for info in self.shell.training_info:
            names.update(free_names(info.initialization), free_names(info.algorithm))
            names.update(b.key for b in (*info.initialization_binding, *info.update_binding))
        return frozenset(names)

    @property
    def bound(self) -> set[str]:
        """Tensors that somebody outside the nodes knows by name: outputs, and what is trained."""
        return {v.name for v in self.shell.graph.output} | self.trained

    @property
    def outputs(self) -> list[ValueInfoProto]:
        """Graph outputs."""
        return list(self.shell.graph.output)

    @cached_property
    def opsets(self) -> dict[str, int]:
        """Opset version by domain; the default domain is the empty string."""
        return {
            ("" if o.domain == "ai.onnx" else o.domain): o.version for o in self.shell.opset_import
        }

    @property
    def names(self) -> set[str]:
        """Every name in use for a tensor, in bodies too."""
        return names_in(self.nodes) | {*self.weights, *(v.name for v in self.shell.graph.input)}

    def consumers(self) -> dict[str, list[int]]:
        """Map each tensor to the indices of the nodes that read it (captures included)."""
        table: dict[str, list[int]] = {}
        for index, node in enumerate(self.nodes):
            for name in dict.fromkeys([*node.input, *captured_names(node)]):
                table.setdefault(name, []).append(index)
        return table

    def producers(self) -> dict[str, int]:
        """Map each tensor to the index of the node that makes it."""
        return {name: i for i, node in enumerate(self.nodes) for name in node.output if name}

    def to_model(self, encode: Callable[[str, Weight], TensorProto] | None = None) -> ModelProto:
        """Assemble a model message; private copies that stayed equal are one tensor again.

        `encode` writes a weight under its final name (a stream to an external file); inline without it.
        """
        names = merged_names(self)
        model = ModelProto()
        model.CopyFrom(self.shell)
        given = self._with_calls(model)
        nodes = []
        for node in given:
            copy = NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [names.get(name, name) for name in node.input]
            nodes.append(copy)
        finals: dict[str, Weight] = {}
        inside = set() if given is self.nodes else reads(self.nodes) - reads(given)
        for name, weight in self.weights.items():
            if name in inside:
                continue
            finals.setdefault(names.get(name, name), weight)
        tensors = (
            encode(name, weight) if encode else weight.to_proto(name)
            for name, weight in finals.items()
        )
        fill(model.graph, nodes, tensors, self.scopes)
        _resize_listed_inputs(model, self.listed)
        listed = {v.name for v in model.graph.input}
        if (
            model.ir_version < _FREE_INITIALIZERS
            and not {t.name for t in model.graph.initializer} <= listed
        ):
            model.ir_version = _FREE_INITIALIZERS
        return model

    def _with_calls(self, model: ModelProto) -> list[NodeProto]:
        """Return the nodes with calls of functions put back; `model` forgets those not called now."""
        if not self.calls:
            return self.nodes
        known = frozenset(self.bound | {v.name for v in self.shell.graph.input})
        nodes = Written(list(self.nodes), self.weights, self.origin, known).put_back(self.calls)
        gone = called((call.node for call in self.calls), model.functions)
        gone -= called(nodes, model.functions)
        kept = [f for f in model.functions if function_key(f) not in gone]
        del model.functions[:]
        model.functions.extend(kept)
        return nodes


def reads(nodes: Iterable[NodeProto]) -> set[str]:
    """Return every tensor that nodes read, bodies included."""
    return {name for node in nodes for name in (*node.input, *captured_names(node))}


def _defaults(model: ModelProto) -> list[str]:
    """Return the inputs that have a value and are no weights.

    Files of IR 3, and of exporters that keep to its custom, list every weight as an input.
    """
    held = {t.name: t for t in model.graph.initializer}
    listed = [v.name for v in model.graph.input if v.name in held]
    if model.ir_version < _FREE_INITIALIZERS or 2 * len(listed) > len(held):
        return []
    return [n for n in listed if held[n].data_location != TensorProto.EXTERNAL]


def _without_payload(model: ModelProto) -> ModelProto:
    """Return a copy of `model` without nodes and initializers (never copying the weights)."""
    shell = ModelProto()
    for field, value in model.ListFields():
        if field.name == "graph":
            continue
        if field.is_repeated:
            getattr(shell, field.name).extend(value)
        elif field.message_type is not None:
            getattr(shell, field.name).CopyFrom(value)
        else:
            setattr(shell, field.name, value)
    for field, value in model.graph.ListFields():
        if field.name in {"node", "initializer"}:
            continue
        if field.is_repeated:
            getattr(shell.graph, field.name).extend(value)
        else:
            setattr(shell.graph, field.name, value)
    return shell


def merged_names(graph: Graph) -> dict[str, str]:
    """Return the final name of every private copy: equal values share one tensor again."""
    names: dict[str, str] = {}
    finals: dict[str, list[tuple[str, Array]]] = {}
    taken = graph.names if graph.origin else set()
    for name, origin in graph.origin.items():
        if name not in graph.weights:
            continue
        array = graph.weights[name].array
        versions = finals.setdefault(origin, [])
        for final, other in versions:
            if other is array or (
                other.shape == array.shape and other.tobytes() == array.tobytes()
            ):
                names[name] = final
                break
        else:
            final, count = origin, 1
            while final in taken and (final != origin or versions):
                final, count = f"{origin}_{count}", count + 1
            taken.add(final)
            versions.append((final, array))
            names[name] = final
    return names


def _resize_listed_inputs(model: ModelProto, listed: frozenset[str]) -> None:
    """Give weights that are also listed as inputs their new shape there; drop those that went."""
    dims = {t.name: t.dims for t in model.graph.initializer}
    for value in list(model.graph.input):
        if value.name in listed and value.name not in dims:
            model.graph.input.remove(value)
        elif value.name in dims:
            shape = value.type.tensor_type.shape
            del shape.dim[:]
            for size in dims[value.name]:
                shape.dim.add().dim_value = size


def unique_name(base: str, taken: Container[str]) -> str:
    """Return `base`, or `base_1`, `base_2`, ... whichever is not in `taken`."""
    name, count = base, 0
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    return name
