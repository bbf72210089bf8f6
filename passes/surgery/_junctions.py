"""Where whole blocks were left out: who reads what a block began with in place of what it made."""

from __future__ import annotations

from onnxprune.core.graph import Graph


def rerouted(original: Graph, left: Graph) -> set[int]:
    """Return the nodes of `left` that read another tensor than in the original.

    Both are in normal form; blocks go without renaming what stays. Weights do not count: private
    copies are numbered anew.
    """
    if original is left:
        return set()
    before = {node.output[0]: list(node.input) for node in original.nodes if node.output}
    constant = {*original.weights, *left.weights}
    found = set()
    for index, node in enumerate(left.nodes):
        then = before.get(node.output[0], []) if node.output else []
        changed = {
            name
            for pair in zip(node.input, then, strict=False)
            if len({*pair}) > 1
            for name in pair
        }
        if changed - constant:
            found.add(index)
    return found
