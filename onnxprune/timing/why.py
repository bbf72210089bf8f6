"""Why time did not fall as the work did: what really ran of two models, side by side.

A node that keeps a share of its multiply-accumulates should keep that share of its time. What it takes
beyond that is put down to the first cause that applies, and summed up per cause.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from onnx import NodeProto

from ..core.graph import Graph
from .result import NodeTime

STEP = 16  # channels that onnxruntime's CPU convolutions compute at once with AVX-512
_WORTH_SAYING = 0.03  # of the time of the model
_SHOWN = 3  # nodes named per cause
_AS_SLOW = 0.9  # of the time before
_LAYOUT = "_nchwc"  # behind the tensor that a convolution in blocked layout makes
_CPU = "CPUExecutionProvider"
_REORDERS = ("ReorderInput", "ReorderOutput")

Cause = tuple[str, str]  # what it is, and what to do about it
_NEW = ("it was part of another kernel before", "a fusion was lost: compare its neighbours")
_REORDERED = ("data changes its layout more often", f"prune with --round-to {STEP}")
_UNALIGNED = (f"widths are no multiple of {STEP}", f"prune with --round-to {STEP}")
_MOVES = ("it multiplies nothing and takes as long as before", "prune what it reads")
_BOUND = ("it is bound by memory or by its start", "run larger batches, or leave out whole blocks")


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
    """One model as it ran.

    Attributes:
        graph: of its file.
        macs: multiply-accumulates of one run, by node name.
        times: of the kernels that the provider ran, after its fusions.
    """

    graph: Graph
    macs: Mapping[str, float]
    times: Sequence[NodeTime]

    def kernels(self) -> dict[str, NodeTime]:
        """Return kernels by the node of the file that they stand for; times of equal names add up."""
        made_by = {name: node for node in self.graph.nodes for name in node.output}
        named = {node.name: node for node in self.graph.nodes if node.name}
        found: dict[str, NodeTime] = {}
        for time in self.times:
            node = named.get(time.name) or made_by.get(time.name.removesuffix(_LAYOUT))
            name = time.op if node is None else self._working(node, made_by)
            us = time.us + (found[name].us if name in found else 0.0)
            found[name] = dataclasses.replace(time, name=name, us=us)
        return found

    def _working(self, node: NodeProto, made_by: Mapping[str, NodeProto]) -> str:
        """Return the name of the node that multiplies, where `node` is what was fused behind it."""
        start = node
        while _name(node) not in self.macs:
            makers = (made_by[name] for name in node.input if name in made_by)
            computed = [maker for maker in makers if maker.input]  # weights may be Constant nodes
            if len(computed) != 1:
                return _name(start)
            node = computed[0]
        return _name(node)


def _name(node: NodeProto) -> str:
    return str(node.name or node.output[0])


def by_kind(profiles: Sequence[Profiled]) -> dict[str, list[float]]:
    """Return microseconds per kind of kernel and model, the slowest kind first."""
    ops = {time.op for profile in profiles for time in profile.times}
    sums = {op: [sum(t.us for t in p.times if t.op == op) for p in profiles] for op in ops}
    return dict(sorted(sums.items(), key=lambda item: -max(item[1])))


def by_node(profiles: Sequence[Profiled]) -> dict[str, list[float]]:
    """Return microseconds per node and model, the slowest first; 0 where a model has no such kernel."""
    kernels = [profile.kernels() for profile in profiles]
    names = dict.fromkeys(name for each in kernels for name in each)
    times = {n: [each[n].us if n in each else 0.0 for each in kernels] for n in names}
    return dict(sorted(times.items(), key=lambda item: -max(item[1])))


def findings(before: Profiled, after: Profiled) -> list[Finding]:
    """Return what keeps a smaller model from being as fast as its work is small, worst first."""
    earlier, beyond = before.kernels(), dict[Cause, list[tuple[float, str]]]()
    for name, kernel in after.kernels().items():
        for why, excess in _beyond(kernel, earlier.get(name), before, after):
            beyond.setdefault(why, []).append((excess, name))
    total = sum(time.us for time in after.times)
    result = []
    for (cause, advice), nodes in beyond.items():
        share = sum(excess for excess, _ in nodes) / total
        if share >= _WORTH_SAYING:
            worst = tuple(name for _, name in sorted(nodes, reverse=True)[:_SHOWN])
            result.append(Finding(cause, advice, share, worst))
    return sorted(result, key=lambda finding: -finding.share)


def _beyond(
    kernel: NodeTime, earlier: NodeTime | None, before: Profiled, after: Profiled
) -> Iterator[tuple[Cause, float]]:
    """Yield the cause of a kernel's time beyond its work, and how much that is in microseconds."""
    was, now = before.macs.get(kernel.name, 0.0), after.macs.get(kernel.name, 0.0)
    if kernel.op in _REORDERS:
        if (excess := kernel.us - (earlier.us if earlier else 0.0)) > 0:
            yield _REORDERED, excess
    elif earlier is None:
        yield _NEW, kernel.us
    elif was == 0.0:
        if kernel.us > _AS_SLOW * earlier.us:
            yield _MOVES, kernel.us
    elif (excess := kernel.us - earlier.us * now / was) > 0:
        widths = zip(
            _widths(before.graph, kernel.name), _widths(after.graph, kernel.name), strict=False
        )
        odd = any(now % STEP and not was % STEP for was, now in widths)
        yield (_UNALIGNED if odd and kernel.provider == _CPU else _BOUND), excess


def _widths(graph: Graph, name: str) -> list[int]:
    """Return the channels that a convolution writes and reads; none for other nodes."""
    for node in graph.nodes:
        if _name(node) == name and "Conv" in node.op_type and len(node.input) > 1:
            weight = graph.weights.get(node.input[1])
            return [] if weight is None else list(weight.shape[:2])
    return []
