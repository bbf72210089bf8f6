"""Puts blocks in order: chains, what repeats in them, which lies in which, and what they are called."""

from __future__ import annotations

import dataclasses
import posixpath
from collections.abc import Callable, Hashable, Iterator, Sequence

from ..core.blocks import Block
from ..core.graph import Graph, unique_name
from .sites import module


def chains(blocks: Sequence[Block], origin: Callable[[str], str]) -> Iterator[list[Block]]:
    """Yield the longest runs of blocks in which each begins where the one before ended.

    `origin` finds the tensor that another is a copy of.
    """
    follower = {origin(block.x): block for block in blocks}
    ends = {block.y for block in blocks}
    for begin, first in follower.items():
        if begin in ends:
            continue
        chain = [first]
        while chain[-1].y in follower:
            chain.append(follower[chain[-1].y])
        yield chain


def period(signs: Sequence[Hashable]) -> int:
    """Return the shortest period that a sequence shows at least twice; 0 if there is none.

    >>> period("ababab"), period("aaaa"), period("abcab"), period("abca")
    (2, 1, 0, 0)
    """
    for length in range(1, len(signs) // 2 + 1):
        if all(a == b for a, b in zip(signs, signs[length:], strict=False)):
            return length
    return 0


def named(blocks: Sequence[Block], graph: Graph, weighty: set[int]) -> list[Block]:
    """Name blocks after the module that holds their weighty nodes, the largest first.

    `parts`, until here the ends of blocks, become names.
    """
    names: dict[int, str] = {}
    taken: set[str] = set()
    for number in sorted(range(len(blocks)), key=lambda i: -len(blocks[i].nodes)):
        block = blocks[number]
        nodes = (graph.nodes[i] for i in block.nodes if i in weighty)
        shared = posixpath.commonpath([(module(node) or "").replace(".", "/") for node in nodes])
        names[number] = unique_name(shared.replace("/", ".") or block.y, taken)
        taken.add(names[number])
    part = {(b.kind, b.y): names[i] for i, b in enumerate(blocks) if not b.parts}
    return [
        dataclasses.replace(b, name=names[i], parts=tuple(part[b.kind, y] for y in b.parts))
        for i, b in enumerate(blocks)
    ]


def nested(blocks: Sequence[Block]) -> list[Block]:
    """Note in every block the smallest that it lies in; regions never overlap in part."""
    holder: dict[int, Block] = {}  # the smallest block so far that a node lies in
    placed: dict[str, Block] = {}
    for block in sorted(blocks, key=lambda b: -len(b.nodes)):
        outer = holder.get(block.nodes[-1])
        if outer is not None:
            block = dataclasses.replace(block, parent=outer.name, level=outer.level + 1)
        placed[block.name] = block
        holder.update(dict.fromkeys(block.nodes, block))
    return [placed[block.name] for block in blocks]
