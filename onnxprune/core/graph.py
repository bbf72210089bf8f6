"""Our view of an ONNX file: nodes, weights and their names; reads and writes without loss.

What pruning does not touch is never re-encoded: node and tensor messages of the file are kept as
they are (metadata, doc strings, odd types), and only edited tensors are written anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

Array = NDArray[Any]
_FREE_INITIALIZERS = 4  # from this IR version on, initializers need not be listed as inputs


@dataclasses.dataclass(frozen=True)
class Weight:
    """One initializer: its message in the file, and its values (read when first asked for)."""

    proto: TensorProto
    folder: Path | None = None
    edited: Array | None = None

    @cached_property
    def array(self) -> Array:
        """Values with the file's dtype; external data is memory-mapped, not read."""
        if self.edited is not None:
            return self.edited
        if self.proto.data_location == TensorProto.EXTERNAL:
            return _map_external(self.proto, self.folder)
        return numpy_helper.to_array(self.proto)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, without reading the values."""
        return tuple(self.proto.dims) if self.edited is None else self.edited.shape

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes as stored."""
        return int(np.prod(self.shape, dtype=np.int64) * bits_of(self.proto.data_type) + 7) // 8

    def replace(self, array: Array) -> Weight:
        """Return this weight with other values (same element type)."""
        return dataclasses.replace(self, edited=array)

    def to_proto(self, name: str) -> TensorProto:
        """Return the message to write under `name`; untouched weights are copied verbatim."""
        if self.edited is None and self.proto.data_location != TensorProto.EXTERNAL:
            if self.proto.name == name:
                return self.proto
            copy = TensorProto()
            copy.CopyFrom(self.proto)
            copy.name = name
            return copy
        proto = numpy_helper.from_array(np.asarray(self.array), name)
        proto.doc_string = self.proto.doc_string
        proto.metadata_props.extend(self.proto.metadata_props)
        if proto.data_type != self.proto.data_type:  # float8 variants share a storage type
            proto.data_type = self.proto.data_type
        return proto


def data_type_name(data_type: int) -> str:
    """Return the name of an ONNX element type: FLOAT, INT64, ..."""
    return str(TensorProto.DataType.Name(data_type))


def bits_of(data_type: int) -> int:
    """Return bits per element of an ONNX element type (sub-byte types are packed)."""
    name = data_type_name(data_type)
    if name.endswith(("INT4", "FLOAT4E2M1")):
        return 4
    if name.endswith("INT2"):
        return 2
    return int(helper.tensor_dtype_to_np_dtype(data_type).itemsize * 8)


def _map_external(proto: TensorProto, folder: Path | None) -> Array:
    """Memory-map an external tensor (location already checked to lie inside the model's folder)."""
    entry = {item.key: item.value for item in proto.external_data}
    dtype = helper.tensor_dtype_to_np_dtype(proto.data_type)
    if folder is None or bits_of(proto.data_type) < 8:
        full = TensorProto()
        full.CopyFrom(proto)
        from onnx.external_data_helper import load_external_data_for_tensor

        load_external_data_for_tensor(full, str(folder))
        return numpy_helper.to_array(full)
    return np.memmap(
        folder / entry["location"],
        dtype=dtype,
        mode="r",
        offset=int(entry.get("offset", 0)),
        shape=tuple(proto.dims),
    )


def constant(name: str, array: Array) -> Weight:
    """Return a new weight that stands in no file."""
    return Weight(numpy_helper.from_array(np.asarray(array), name), edited=np.asarray(array))


def captured_names(node: NodeProto) -> list[str]:
    """Return the outer-scope tensors that the bodies of If, Loop and Scan read."""
    names: dict[str, None] = {}
    for attribute in node.attribute:
        for body in [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs:
            inner = {v.name for v in body.input} | {t.name for t in body.initializer}
            for sub in body.node:
                for used in [*sub.input, *captured_names(sub)]:
                    if used and used not in inner:
                        names[used] = None
                inner.update(sub.output)
            names.update({v.name: None for v in body.output if v.name not in inner})
    return list(names)


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

    @classmethod
    def from_model(cls, model: ModelProto, folder: Path | None = None) -> Graph:
        """Split `model` (left untouched) into shell, nodes and weights."""
        shell = ModelProto()
        shell.CopyFrom(_without_payload(model))
        weights = {t.name: Weight(t, folder) for t in model.graph.initializer}
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
            shell, nodes, dict(self.weights), dict(self.origin), self.external, self.listed
        )

    @property
    def inputs(self) -> list[ValueInfoProto]:
        """Graph inputs that a caller feeds (initializers listed as inputs are left out)."""
        return [v for v in self.shell.graph.input if v.name not in self.listed]

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
        for node in self.nodes:
            copy = model.graph.node.add()
            copy.CopyFrom(node)
            for i, name in enumerate(copy.input):
                copy.input[i] = names.get(name, name)
        done: set[str] = set()
        for name, weight in self.weights.items():
            final = names.get(name, name)
            if final not in done:
                done.add(final)
                model.graph.initializer.append(
                    encode(final, weight) if encode else weight.to_proto(final)
                )
        _resize_listed_inputs(model, self.listed)
        listed = {v.name for v in model.graph.input}
        if (
            model.ir_version < _FREE_INITIALIZERS
            and not {t.name for t in model.graph.initializer} <= listed
        ):
            model.ir_version = _FREE_INITIALIZERS
        return model


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
    taken = set(graph.weights) | {o for n in graph.nodes for o in n.output}
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


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the subgraphs of a control-flow node."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def unique_name(base: str, taken: Iterable[str]) -> str:
    """Return `base`, or `base_1`, `base_2`, ... whichever is not in `taken`."""
    used = set(taken)
    name, count = base, 0
    while name in used:
        count += 1
        name = f"{base}_{count}"
    return name
