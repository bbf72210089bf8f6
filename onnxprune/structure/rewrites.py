"""Detours that exporters write for something simple, found and replaced by the simple op.

The rules could describe none of them as exactly:

- a permutation of channels written as Reshape-Transpose-Reshape (channel shuffle): one Gather;
- a tensor put into a sequence and read from it, or a sequence joined: that tensor, one Concat;
- pieces read from a sequence (`torch.chunk`, `torch.split`): one Slice each;
- a flat tensor looked up in its own order (`as_strided` of what is contiguous): one Reshape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from ..core.graph import Array, Graph, constant, unique_name
from ..core.shapes import Shapes
from ..core.surgeon import Surgeon

Ints = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Rewrite:
    """One replacement.

    Attributes:
        gone: outputs of the nodes that are replaced; the last is made by `op_type` instead.
        op_type: of the node that stands for them.
        reads: the tensors it reads first.
        constants: its other operands in order, by what they say.
        attributes: of the new node.
    """

    gone: tuple[str, ...]
    op_type: str
    reads: tuple[str, ...]
    constants: dict[str, Array]
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)


def apply(graph: Graph, rewrites: Iterable[Rewrite]) -> Graph:
    """Return `graph` with all replacements made, and without what nobody reads any more."""
    working, taken = graph.copy(), graph.names
    surgeon = Surgeon(working)
    for rewrite in rewrites:
        output, names = rewrite.gone[-1], []
        for what, array in rewrite.constants.items():
            names.append(unique_name(f"{output}::{what}", taken))
            taken.add(names[-1])
            working.weights[names[-1]] = constant(names[-1], array)
        surgeon.remove(rewrite.gone)
        node = helper.make_node(
            rewrite.op_type, [*rewrite.reads, *names], [output], output, **rewrite.attributes
        )
        surgeon.insert([node])
    return surgeon.finish()


def members(graph: Graph) -> Iterator[Rewrite]:
    """Find what is read of sequences just made: one tensor of them, or all, joined."""
    producers = graph.producers()
    for node in graph.nodes:
        made = graph.nodes[producers[node.input[0]]] if _reads_one(node, producers) else None
        if made is None or made.op_type != "SequenceConstruct":
            continue
        values, output = tuple(made.input), (node.output[0],)
        given = {a.name: a.i for a in node.attribute}
        number = graph.weights.get(node.input[1]) if node.op_type == "SequenceAt" else None
        if number is not None and -len(values) <= int(number.array) < len(values):
            yield Rewrite(output, "Identity", (values[int(number.array)],), {})
        elif node.op_type == "ConcatFromSequence" and not given.get("new_axis"):
            yield Rewrite(output, "Concat", values, {}, {"axis": given["axis"]})


def _reads_one(node: NodeProto, producers: Mapping[str, int]) -> bool:
    return node.op_type in {"SequenceAt", "ConcatFromSequence"} and node.input[0] in producers


def pieces(graph: Graph) -> Iterator[Rewrite]:
    """Find SplitToSequence - SequenceAt, with constant lengths and index: Slices."""
    producers = graph.producers()
    for node in graph.nodes:
        if node.op_type != "SequenceAt" or node.input[0] not in producers:
            continue
        split = graph.nodes[producers[node.input[0]]]
        number = graph.weights.get(node.input[1])
        if split.op_type != "SplitToSequence" or number is None:
            continue
        if (limits := _limits(graph, split, int(number.array))) is None:
            continue
        axis = next((a.i for a in split.attribute if a.name == "axis"), 0)
        bounds = {"starts": limits[0], "ends": limits[1], "axes": axis}
        operands = {what: np.array([value], np.int64) for what, value in bounds.items()}
        yield Rewrite((node.output[0],), "Slice", (split.input[0],), operands)


def _limits(graph: Graph, split: NodeProto, number: int) -> tuple[int, int] | None:
    """Return where piece `number` starts and ends; None if that depends on the length of the axis."""
    if len(split.input) < 2 or split.input[1] not in graph.weights:
        return None
    lengths = graph.weights[split.input[1]].array
    if lengths.ndim:
        ends = np.cumsum(lengths)
        return int(ends[number] - lengths[number]), int(ends[number])
    return None if number < 0 else (int(lengths) * number, int(lengths) * (number + 1))


def permutations(graph: Graph, shapes: Shapes) -> Iterator[Rewrite]:
    """Find Reshape-Transpose-Reshape chains that permute one axis: Gathers."""
    producers, consumers = graph.producers(), graph.consumers()
    outputs = {v.name for v in graph.outputs}

    def maker(name: str, chain: list[str]) -> NodeProto | None:
        """Return the node behind `name`, past copies; notes in `chain` what only `name` needs."""
        node = None
        while node is None or node.op_type == "Identity":
            name = name if node is None else node.input[0]
            if name not in producers or name in outputs or len(consumers[name]) != 1:
                return None
            chain.append(name)
            node = graph.nodes[producers[name]]
        return node

    for last in graph.nodes:
        chain = [last.output[0]]
        if last.op_type != "Reshape":
            continue
        middle = maker(last.input[0], chain)
        if middle is None or middle.op_type != "Transpose":
            continue
        first = maker(middle.input[0], chain)
        if first is None or first.op_type != "Reshape":
            continue
        if (match := _permuted_axis(first, middle, last, shapes)) is not None:
            axis, order = match
            operands = {"permutation": order}
            yield Rewrite(
                tuple(reversed(chain)), "Gather", (first.input[0],), operands, {"axis": axis}
            )


def _permuted_axis(
    first: NodeProto, middle: NodeProto, last: NodeProto, shapes: Shapes
) -> tuple[int, Ints] | None:
    """Return (axis, permutation) if the chain only reorders one static axis."""
    x, wide, y = first.input[0], first.output[0], last.output[0]
    if (
        not all(shapes.known(n) for n in (x, wide, y))
        or shapes.a[x] != shapes.a[y]
        or shapes.b[x] != shapes.b[y]
    ):
        return None
    rank, size = len(shapes.a[x]), len(shapes.a[wide])
    extra = size - rank
    perm = next((list(a.ints) for a in middle.attribute if a.name == "perm"), None)
    if extra < 1 or perm is None:
        return None
    for axis in range(rank):
        inner = list(range(axis, axis + extra + 1))
        outer_kept = all(perm[i] == i for i in range(size) if i not in inner)
        split = shapes.a[wide][axis : axis + extra + 1]
        rest = (*shapes.a[wide][:axis], int(np.prod(split)), *shapes.a[wide][axis + extra + 1 :])
        if (
            outer_kept
            and rest == shapes.a[x]
            and shapes.static(x, axis)
            and perm != list(range(size))
        ):
            order = np.arange(int(np.prod(split)), dtype=np.int64).reshape(split)
            return axis, order.transpose([perm[i] - axis for i in inner]).ravel()
    return None


def straight_reads(graph: Graph, shapes: Shapes) -> Iterator[Rewrite]:
    """Find lookups of a flat tensor in its own order: Reshapes to the shape of the index."""
    for node in graph.nodes:
        if node.op_type != "Gather" or node.input[1] not in shapes.counting:
            continue
        data, index = node.input
        if not shapes.known(data) or len(shapes.a[data]) != 1:
            continue
        sizes = [(int(np.prod(s[index])), s[data][0]) for s in (shapes.a, shapes.b)]
        target = [n if shapes.static(index, i) else -1 for i, n in enumerate(shapes.a[index])]
        if all(a == b for a, b in sizes) and target.count(-1) <= 1:
            shape = np.array(target, np.int64)
            yield Rewrite((node.output[0],), "Reshape", (data,), {"shape": shape})
