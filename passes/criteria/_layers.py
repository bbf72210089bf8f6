"""The order in which groups follow each other through a network."""

from __future__ import annotations

from onnxprune.core.analysis import Analysis


def layer_order(analysis: Analysis) -> list[int]:
    """Return the numbers of the groups from inputs to outputs, by the first operator that writes them."""
    first: dict[str, int] = {}
    for linear in analysis.linears():
        first.setdefault(linear.weight, linear.node)
    last = len(analysis.records)
    places = []
    for number, group in enumerate(analysis.groups):
        writers = [
            first[m.tensor] for m in group.members if m.role == "produces" and m.tensor in first
        ]
        readers = [reader.linear.node for reader in group.readers]
        places.append((min(writers or readers, default=last), number))
    return [number for _, number in sorted(places)]
