"""Why time did not fall as the work did: single nodes of two models, side by side.

A node that keeps its share of multiply-accumulates should keep that share of its time. What it takes
beyond that is explained by the first cause that applies, and summed up per cause.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from ..core.graph import Graph
from .result import NodeTime

STEP = 16  # channels onnxruntime's CPU convolutions compute at once with AVX-512; other widths are filled up
_WORTH_SAYING = 0.03  # of the time of the model
_SHOWN = 3  # nodes named per cause
_AS_SLOW = 0.9  # of the time before

Cause = tuple[str, str]  # what it is, and what to do about it


@dataclasses.dataclass(frozen=True)
class Finding:
    """One cause of time beyond what the work explains.

    Attributes:
        cause: in words.
        advice: what to do about it.
        share: of the model's time.
        nodes: the worst of them by name.
    """

    cause: str
    advice: str
    share: float
    nodes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Profiled:
    """One model's nodes as they ran.

    Attributes:
        graph: of its file.
        macs: multiply-accumulates of one run, by node name.
        times: what the provider ran, after its fusions.
    """

    graph: Graph
    macs: Mapping[str, float]
    times: Sequence[NodeTime]

    @property
    def total(self) -> float:
        """Microseconds of all nodes."""
        return sum(node.us for node in self.times)


def kernels(profiles: Sequence[Profiled]) -> dict[str, list[float]]:
    """Return microseconds per kind of kernel and model, the slowest kind first."""
    ops = {node.op for profile in profiles for node in profile.times}
    sums = {
        op: [sum(n.us for n in profile.times if n.op == op) for profile in profiles] for op in ops
    }
    return dict(sorted(sums.items(), key=lambda item: -max(item[1])))


def findings(before: Profiled, after: Profiled) -> list[Finding]:
    """Return what keeps a smaller model from being as fast as its work is small, worst first."""
    beyond: dict[Cause, list[tuple[float, str]]] = {}
    earlier = {node.name: node for node in before.times}
    for node in after.times:
        for why, excess in _beyond(node, earlier.get(node.name), before, after):
            beyond.setdefault(why, []).append((excess, node.name))
    result = []
    for (cause, advice), nodes in beyond.items():
        share = sum(excess for excess, _ in nodes) / after.total
        if share >= _WORTH_SAYING:
            worst = tuple(name for _, name in sorted(nodes, reverse=True)[:_SHOWN])
            result.append(Finding(cause, advice, share, worst))
    return sorted(result, key=lambda finding: -finding.share)


def _beyond(
    node: NodeTime, earlier: NodeTime | None, before: Profiled, after: Profiled
) -> Iterator[tuple[Cause, float]]:
    """Yield the cause of a node's time beyond its work, and how much that is in microseconds."""
    was, now = before.macs.get(node.name, 0.0), after.macs.get(node.name, 0.0)
    if earlier is None:
        yield _NEW, node.us
    elif was == 0.0:
        if node.us > _AS_SLOW * earlier.us:
            yield _MOVES, node.us
    elif (excess := node.us - earlier.us * now / was) > 0:
        odd = [width for width in _widths(after.graph, node.name) if width % STEP]
        if node.provider == "CPUExecutionProvider" and "Conv" in node.op and odd:
            yield _unaligned(odd[0]), excess
        elif node.op != earlier.op:
            yield (
                (f"it ran as {earlier.op} before, now as {node.op}", "compare its neighbours"),
                excess,
            )
        else:
            yield _BOUND, excess


_NEW = ("it did not run before", "a fusion was lost or a layout changed: compare its neighbours")
_MOVES = ("it multiplies nothing and takes as long as before", "prune what it reads")
_BOUND = ("it is bound by memory or by its start", "run larger batches, or leave out whole blocks")


def _unaligned(width: int) -> Cause:
    full = width + -width % STEP
    advice = f"prune with --round-to {STEP}, since {width} channels take as long as {full}"
    return f"its width is no multiple of {STEP}", advice


def _widths(graph: Graph, name: str) -> list[int]:
    """Return the channels that a convolution writes and reads."""
    for node in graph.nodes:
        if name in (node.name, *node.output) and len(node.input) > 1:
            weight = graph.weights.get(node.input[1])
            return [] if weight is None else list(weight.shape[:2])
    return []
