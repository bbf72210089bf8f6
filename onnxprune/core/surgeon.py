"""Topology edits through onnx-graphsurgeon: insert, replace, drop dead nodes, sort.

graphsurgeon's own import and export lose metadata, doc strings and several types. Here it only ever
sees the *skeleton* (who reads what): each of its nodes carries the original message as payload, so
nothing that it does not know can be lost, and outer-scope captures are plain extra inputs.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_graphsurgeon as gs
from onnx import NodeProto
from onnx_graphsurgeon.logger import G_LOGGER

from .errors import ModelError
from .graph import Graph
from .scopes import captured_names

_PAYLOAD = "payload"
G_LOGGER.severity = G_LOGGER.ERROR  # it prints advice to stdout otherwise


def _sorted(nodes: list[gs.Node]) -> list[gs.Node]:
    """Return nodes in topological order; what stands in order already is not moved.

    graphsurgeon's own sort moves every node as early or late as it can.
    """
    maker = {t.name: i for i, node in enumerate(nodes) for t in node.outputs if t.name}
    result: list[gs.Node] = []
    done, entered = [False] * len(nodes), [False] * len(nodes)
    for first in range(len(nodes)):
        waiting = [first]
        while waiting:
            index = waiting[-1]
            makers = {maker.get(tensor.name) for tensor in nodes[index].inputs}
            before = sorted((i for i in makers if i is not None and not done[i]), reverse=True)
            if before and not done[index]:
                if entered[index]:
                    raise ModelError(f"node '{nodes[index].name}' waits for its own output")
                entered[index] = True
                waiting += before
                continue
            waiting.pop()
            if not done[index]:
                done[index] = True
                result.append(nodes[index])
    return result


class Surgeon:
    """Edits the topology of one `Graph`; `finish` returns the edited graph."""

    def __init__(self, graph: Graph) -> None:
        """Open `graph`; it is not changed until `finish`, which returns a new one."""
        self._graph = graph
        self._tensors: dict[str, gs.Variable] = {}
        self._skeleton = gs.Graph(
            nodes=[self._node(node) for node in graph.nodes],
            inputs=[self._tensor(v.name) for v in graph.shell.graph.input],
            outputs=[self._tensor(v.name) for v in graph.outputs],
        )

    def _tensor(self, name: str) -> gs.Variable:
        if not name:
            return gs.Variable.empty()
        if name not in self._tensors:
            self._tensors[name] = gs.Variable(name)
        return self._tensors[name]

    def _node(self, proto: NodeProto) -> gs.Node:
        reads = [*proto.input, *captured_names(proto)]
        return gs.Node(
            op=proto.op_type,
            name=proto.name,
            attrs={_PAYLOAD: proto},
            inputs=[self._tensor(name) for name in reads],
            outputs=[self._tensor(name) for name in proto.output],
        )

    def insert(self, protos: Iterable[NodeProto]) -> None:
        """Add nodes; their place in the order is found by `finish`."""
        self._skeleton.nodes.extend([self._node(proto) for proto in protos])

    def remove(self, outputs: Iterable[str]) -> None:
        """Drop the nodes that make these tensors."""
        doomed = set(outputs)
        kept = []
        for node in self._skeleton.nodes:
            if doomed.intersection(t.name for t in node.outputs):
                node.inputs.clear()
                node.outputs.clear()
            else:
                kept.append(node)
        self._skeleton.nodes = kept

    def reroute(self, old: str, new: str) -> None:
        """Let every operand that is tensor `old` be `new` instead; bodies and outputs keep it."""
        source, target = self._tensor(old), self._tensor(new)
        for node in list(source.outputs):
            for slot in range(len(node.attrs[_PAYLOAD].input)):
                if node.inputs[slot] is source:
                    node.inputs[slot] = target

    def finish(self) -> Graph:
        """Drop what no output needs, sort, and return the edited graph (weights unused are dropped)."""
        self._skeleton.cleanup(
            remove_unused_node_outputs=False,
            recurse_subgraphs=False,
            remove_unused_graph_inputs=False,
        )
        result = self._graph.copy()
        result.nodes = []
        for node in _sorted(list(self._skeleton.nodes)):
            proto = NodeProto()
            proto.CopyFrom(node.attrs[_PAYLOAD])
            for slot in range(len(proto.input)):
                proto.input[slot] = node.inputs[slot].name
            result.nodes.append(proto)
        used = {name for n in result.nodes for name in [*n.input, *captured_names(n)]}
        used |= result.bound
        # only the loss of its readers makes a weight dead
        before = {name for n in self._graph.nodes for name in [*n.input, *captured_names(n)]}
        result.weights = {n: w for n, w in result.weights.items() if n in used or n not in before}
        return result
