"""Hostile files for the fuzzer: numbered, each always the same, of every kind in turn.

`lay_out(number, folder)` writes one and returns the commands to run on it. Kinds of damage register
themselves (`registry.kind`); a new one takes part by being written.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from tests.hostile import bases, bombs, graphs, interfaces, outside, tensors, wire
from tests.hostile.registry import DEFAULT, KINDS, SHARES, Commands

__all__ = [
    "DECK",
    "KINDS",
    "Case",
    "bases",
    "bombs",
    "graphs",
    "interfaces",
    "lay_out",
    "outside",
    "tensors",
    "wire",
]

# every kind as often as its share says, in a fixed order that mixes them
DECK: tuple[str, ...] = tuple(
    np.random.default_rng(0).permutation([n for n, share in SHARES.items() for _ in range(share)])
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One hostile file: what was done, and what to run on it."""

    number: int
    kind: str
    commands: Commands


def lay_out(number: int, folder: Path) -> Case:
    """Write hostile file `number` into an empty folder."""
    name = DECK[number % len(DECK)]
    rng = np.random.default_rng((number, 0xBAD))
    commands = KINDS[name](rng, folder) or DEFAULT
    return Case(number, name, commands)
