"""Runs a graph piece by piece over samples, each node once, keeping only tensors still needed.

Repair must see what the *already repaired* part of a model computes. Running the model from the start
for every operator would cost L^2/2 layers; here the tensors that cross the current cut are kept for
all samples, so that a whole pass costs one run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from onnx import ModelProto, helper

from onnxprune.core.graph import Array, Graph
from onnxprune.core.rules import OP_RULES
from onnxprune.core.runtime import Session
from onnxprune.core.scopes import captured_names, fill
from onnxprune.core.shapes import instantiate


class Replay:
    """The state of one graph executed up to some cut, over a fixed list of input batches."""

    def __init__(
        self,
        graph: Graph,
        dtypes: Mapping[str, int],
        batches: Sequence[Mapping[str, Array]],
        wanted: Iterable[str] = (),
    ) -> None:
        """Start before the first node.

        Args:
            graph: the model; weights of nodes not yet executed may still be edited.
            dtypes: element type per tensor.
            batches: input name -> array, one mapping per call of onnxruntime.
            wanted: tensors that will be asked for: kept, once known, until taken out of `wanted`.
        """
        self.graph, self.dtypes, self.wanted = graph, dtypes, set(wanted)
        self.live: dict[str, list[Array]] = {
            name: [batch[name] for batch in batches] for name in batches[0]
        }
        self._calls = len(batches)
        self._pending = list(range(len(graph.nodes)))
        self._producer = graph.producers()
        self._reads = [[*n.input, *captured_names(n)] for n in graph.nodes]

    def value(self, name: str) -> list[Array]:
        """Return a tensor, batch by batch, executing what leads to it and was not executed yet."""
        if name not in self.live:
            self._execute(self._ancestors(name), name)
        return self.live[name]

    def forget(self) -> None:
        """Drop tensors that no pending node reads and nobody will ask for."""
        needed = {name for i in self._pending for name in self._reads[i]} | self.wanted
        self.live = {name: value for name, value in self.live.items() if name in needed}

    def pending_ancestors(self, name: str) -> list[int]:
        """Return the nodes that must still run before `name` is known."""
        return [] if name in self.live else self._ancestors(name)

    def _ancestors(self, name: str) -> list[int]:
        found: set[int] = set()
        stack = [name]
        while stack:
            current = stack.pop()
            index = self._producer.get(current)
            if current in self.live or index is None or index in found:
                continue
            found.add(index)
            stack.extend(self._reads[index])
        return sorted(found)

    def _execute(self, piece: list[int], wanted: str) -> None:
        inside = set(piece)
        self._pending = [i for i in self._pending if i not in inside]
        later = {name for i in self._pending for name in self._reads[i]} | {wanted} | self.wanted
        made = [o for i in piece for o in self.graph.nodes[i].output if o in later]
        read = dict.fromkeys(name for i in piece for name in self._reads[i] if name in self.live)
        session = Session(self._piece(piece, read, made))
        self.live.update({name: [] for name in made})
        for call in range(self._calls):
            found = session.run({name: self.live[name][call] for name in read}, made)
            for name, value in found.items():
                self.live[name].append(value)

    def _piece(self, piece: list[int], read: Iterable[str], made: list[str]) -> ModelProto:
        nodes = [self.graph.nodes[i] for i in piece]
        names = {name for i in piece for name in self._reads[i]}
        graph = helper.make_graph(
            [],
            "piece",
            [helper.make_tensor_value_info(n, self.dtypes[n], None) for n in read],
            [helper.make_tensor_value_info(n, self.dtypes[n], None) for n in made],
        )
        weights = (w.to_proto(n) for n, w in self.graph.weights.items() if n in names)
        fill(graph, nodes, weights, self.graph.scopes)
        return helper.make_model(
            graph,
            opset_imports=list(self.graph.shell.opset_import),
            ir_version=max(self.graph.shell.ir_version, 4),
            functions=list(self.graph.shell.functions),
        )


def peak_bytes(graph: Graph, feeds: Mapping[str, Array]) -> int:
    """Return the most bytes of activations alive at once while `graph` runs on `feeds` in order."""
    inputs = {name: array.shape for name, array in feeds.items()}
    instance = instantiate(graph, OP_RULES.shape_functions, inputs=inputs)
    shapes = {} if instance is None else instance.shapes
    last = {
        n: i for i, node in enumerate(graph.nodes) for n in [*node.input, *captured_names(node)]
    }
    live: dict[str, int] = {}
    peak = 0
    for i, node in enumerate(graph.nodes):
        for name in node.output:
            live[name] = 4 * int(np.prod(shapes.get(name, (1,)), dtype=np.int64))
        peak = max(peak, sum(live.values()))
        live = {name: size for name, size in live.items() if last.get(name, -1) > i}
    return peak
