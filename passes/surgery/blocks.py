"""Bypasses whole blocks: who read what a block makes reads what it adds to; proves nothing yet.

Precondition: every block was found in the graph of the mask's analysis. Postcondition: nodes and
weights that only served them are gone, all other nodes are the same but for the names they read.
Blocks may lie in each other or follow each other; of two that end at the same tensor, the larger goes.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import helper

from onnxprune.core.analysis import Mask
from onnxprune.core.blocks import Block
from onnxprune.core.contracts import SURGERIES
from onnxprune.core.errors import InternalError
from onnxprune.core.graph import Graph
from onnxprune.core.scopes import captured_names
from onnxprune.core.surgeon import Surgeon

from .channels import remove_channels


@SURGERIES.register("blocks")
def remove_blocks(mask: Mask) -> Graph:
    """Return the graph of `mask.analysis` without what the mask removes: positions, then blocks.

    Raises:
        InternalError: if the mask is not valid, or a block is not of this graph.
    """
    graph = remove_channels(mask) if mask.removed.any() else mask.analysis.graph
    return bypassed(graph, mask.blocks)


def bypassed(graph: Graph, blocks: Sequence[Block]) -> Graph:
    """Return `graph` with y replaced by x for every block.

    Raises:
        InternalError: naming the first tensor that the graph does not have.
    """
    source = {block.y: block.x for block in sorted(blocks, key=lambda b: len(b.nodes))}
    _check(graph, source)
    kept = {value.name for value in graph.outputs}
    kept |= {name for node in graph.nodes for name in captured_names(node)}
    surgeon = Surgeon(graph)
    for y, x in source.items():
        while x in source:
            x = source[x]
        surgeon.reroute(y, x)
        if y in kept:  # a name that has to stay
            surgeon.remove([y])
            surgeon.insert([helper.make_node("Identity", [x], [y], f"{y}::bypass")])
    return _without_notes(surgeon.finish())


def _check(graph: Graph, source: dict[str, str]) -> None:
    made = {name for node in graph.nodes for name in node.output}
    known = made | {value.name for value in graph.inputs}
    for y, x in source.items():
        if y not in made or x not in known:
            raise InternalError(f"the graph has no block from '{x}' to '{y}'")


def _without_notes(graph: Graph) -> Graph:
    """Drop the file's shape notes of tensors that are gone."""
    made = {name for node in graph.nodes for name in node.output}
    notes = graph.shell.graph.value_info
    kept = [value for value in notes if value.name in made]
    del notes[:]
    notes.extend(kept)
    return graph
