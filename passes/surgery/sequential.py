"""Sequential least-squares repair: operators in order, each on what the repaired part feeds it.

For every linear operator downstream of a removal, from inputs to outputs: X are the rows it reads in
the *repaired so far* model, Y what the original model computes at that place; least squares gives the
new weights. Where the output joins a sum (residual Add), Y is the original sum minus what the other
branch delivers now, so that errors already in the stream are corrected too.

Where all that reads an output is a ReLU, Y need not be met where it is negative: any negative number is
as good. So is anything beyond the ends of a Clip and, nearly, of a sigmoid (`_ends`). A few steps in turn
take as targets the values nearest to what the refitted operator computes among those that the readers
cannot tell from Y, and refit:

    Y' = min(X W^T + b, 0) where Y <= 0,   Y elsewhere

Each step lowers the squared error behind the ReLU, or rather a convex bound of it, |Y - XW|^2 where
Y > 0 and relu(XW)^2 elsewhere, of which each step minimises a quadratic that lies above and touches.

Where whole blocks were left out, what followed y = x + b(x) now follows x. Whoever reads it is
refitted to what it computed from y, which makes up for a map from x to y that is linear, and the next
operators that write to the stream to what the stream was.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator

import numpy as np

from onnxprune.core.contracts import REPAIRS, RepairTask
from onnxprune.core.declared import Linear
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.graph import Array, Graph
from onnxprune.core.interface import interface_of
from onnxprune.core.linear import (
    add_to_bias,
    ensure_bias,
    weight_matrices,
    weight_tensor,
    write_bias,
)
from onnxprune.core.padding import padding_masks
from onnxprune.core.patches import outputs_at, patches, sample_keys, sample_positions
from onnxprune.core.scopes import captured_names
from onnxprune.core.shapes import instantiate

from ._columns import KeptBlock, kept_block, kept_outputs, shared_weights
from ._ends import flat_ends
from ._flat import Seen, by_group
from ._junctions import rerouted
from ._refit import Normal, chosen_ridge
from ._replay import Replay, peak_bytes

log = logging.getLogger(__name__)

_BATCH = 64  # samples per call; also the chunk in which rows are folded
_NO_SHIFT: Array | float = 0.0
_MEMORY = 2 << 30  # bytes of live activations of both models together


@dataclasses.dataclass(frozen=True)
class SequentialRepair:
    """Refits every operator downstream of a removal against the original model.

    Attributes:
        steps: refits after the first, at most, towards what a ReLU or the like behind the operator
            sees of it; 0: none.
    """

    steps: int = 8

    needs = frozenset[str]()
    needs_samples = True

    def apply(self, task: RepairTask) -> Graph:
        """Return a copy of the pruned graph with refitted operators.

        Raises:
            OnnxPruneError: if there are no samples.
        """
        return _Sweep(task, self.steps).run()


class _Sweep:
    """One pass over the operators."""

    def __init__(self, task: RepairTask, steps: int) -> None:
        self.task, self.mask, self.analysis = task, task.mask, task.mask.analysis
        self.steps = steps
        self.graph = task.pruned.copy()
        original = self.analysis.graph if task.original is None else task.original
        self.plan = list(self._refitted(original))
        for linear, _ in self.plan:  # nodes may be added now, not once the replay has begun
            ensure_bias(self.graph, linear, len(kept_outputs(self.mask, linear)))
        batches = self._batches(original)
        self.feeds, self.masks = batches, padding_masks(self.analysis.graph)
        self.keys = [sample_keys(feeds, self._samples(feeds)) for feeds in batches]
        dtypes = dict(self.analysis.shapes.dtypes)
        for graph in (self.graph, original):
            types = instantiate(graph, {}, fold=False)
            dtypes |= types.dtypes if types else {}
        self.original = Replay(original, dtypes, batches, (linear.y for linear, _ in self.plan))
        interface = interface_of(self.mask)
        self.repaired = Replay(self.graph, dtypes, [interface.feeds(batch) for batch in batches])

    def run(self) -> Graph:
        """Refit operator by operator and return the repaired graph."""
        waiting = {linear.node for linear, _ in self.plan}
        for number, (linear, block) in enumerate(self.plan):
            self.task.progress("repair", number, len(self.plan))
            waiting.discard(linear.node)
            self._refit(linear, block, waiting)
            self.original.wanted.discard(linear.y)
            self.original.forget()
            self.repaired.forget()
        return self.graph

    def _refitted(self, original: Graph) -> Iterator[tuple[Linear, KeptBlock]]:
        """Yield the operators whose input differs from the original, in topological order."""
        tied, moved = shared_weights(self.graph), rerouted(original, self.analysis.graph)
        known = {name for node in original.nodes for name in node.output}
        dirty: set[str] = set()
        linears = {linear.node: linear for linear in self.analysis.linears()}
        for index, node in enumerate(self.analysis.graph.nodes):
            linear = linears.get(index)
            lost = linear is not None and self.mask.gone_at(linear.x, linear.x_axis) is not None
            if lost or index in moved or not dirty.isdisjoint([*node.input, *captured_names(node)]):
                dirty.update(node.output)
                block = None if linear is None else kept_block(self.mask, linear)
                if (
                    linear is not None
                    and block is not None
                    and linear.weight not in tied
                    and linear.y in known
                ):
                    yield linear, block

    def _batches(self, original: Graph) -> list[dict[str, Array]]:
        """Read as many samples as fit the memory for activations."""
        samples = self.task.samples
        if samples is None or samples.count == 0:
            raise OnnxPruneError(
                "sequential repair needs sample inputs: give --data, or --repair none"
            )
        first = samples.read(0, min(samples.count, samples.batch or 1))
        each = 2 * peak_bytes(original, first) / (samples.batch or 1)
        count = max(min(samples.count, int(_MEMORY / max(each, 1))), samples.batch or 1)
        if count < samples.count:
            log.warning(
                "repair uses %d of %d samples: %.0f MB each", count, samples.count, each / 1e6
            )
        size = min(_BATCH, -(-count // 2))  # two calls at least: the ridge is chosen by halves
        return list(samples.batches(samples.batch or size, 0, count))

    def _samples(self, feeds: dict[str, Array]) -> int:
        """Return how many samples a batch holds: 1 where the first axis is not the samples."""
        samples = self.task.samples
        return 1 if samples is None or samples.batch == 1 else len(next(iter(feeds.values())))

    def _refit(self, linear: Linear, block: KeptBlock, waiting: set[int]) -> None:
        x, outputs = self.repaired.value(linear.x), kept_outputs(self.mask, linear)
        other, shift = self._other_branch(linear, waiting)
        goal = linear.y if other is None else self.analysis.sums[linear.y]
        y = self.original.value(goal)
        channels, place = y[0].shape[linear.y_axis], linear.y_axis - y[0].ndim
        lo, hi = flat_ends(self.analysis.graph, goal, channels, place)
        weight = self.graph.weights[linear.weight]
        shape = linear_of(linear, block)
        old = weight_matrices(np.asarray(weight.array, np.float64), shape)
        halves = Normal.empty(*old.shape), Normal.empty(*old.shape)
        seen = Seen((lo[outputs], hi[outputs]), self.steps)
        for call, keys in enumerate(self.keys):
            mask = self.feeds[call].get(self.masks.get(linear.x, ""))
            spots = sample_positions(linear, x[call].shape, self.task.rows, keys, mask)
            target = outputs_at(self._kept_rows(linear, y[call]), linear, spots)[:, outputs]
            rest = (
                None
                if other is None
                else np.asarray(outputs_at(other[call], linear, spots) + shift)
            )
            rows = patches(x[call], shape, spots)
            seen.add(rows, target, rest)
            halves[call % 2].add(
                rows, by_group(target if rest is None else target - rest, len(block.groups))
            )
        given = self.task.ridge
        ridge = chosen_ridge(*halves, old) if given is None else np.full(old.shape[:2], given)
        equations, second = halves
        equations += second
        new, bias = seen.refined(equations, old, ridge)
        self.graph.weights[linear.weight] = weight.replace(
            weight_tensor(new, shape, weight.array.dtype)
        )
        # a node without a bias operand computes y before the Add that holds its bias
        settle = add_to_bias if linear.bias_slot is None else write_bias
        settle(self.graph, linear, bias.ravel())

    def _kept_rows(self, linear: Linear, y: Array) -> Array:
        """Leave out of an original output the rows that the pruned operator no longer writes."""
        for number in range(y.ndim):
            gone = self.mask.gone_at(linear.y, number)
            if number != linear.y_axis and gone is not None:
                y = y.compress(~gone, axis=number)
        return y

    def _other_branch(
        self, linear: Linear, waiting: set[int]
    ) -> tuple[list[Array] | None, Array | float]:
        """Return what the other operand of the sum is now, if nothing before it still waits.

        And the bias that a node of its own adds on the way to the sum.
        """
        total, name, shift = self.analysis.sums.get(linear.y), linear.y, _NO_SHIFT
        if total is None:
            return None, shift
        node = next(n for n in self.graph.nodes if total in n.output)
        if name not in node.input and (bias := self._bias_behind(linear)) is not None:
            name, shift = bias
        names = [other for other in node.input if other != name]
        if name not in node.input or len(names) != 1:
            return None, shift
        before = {
            o for i in self.repaired.pending_ancestors(names[0]) for o in self.graph.nodes[i].output
        }
        blocked = any(self.analysis.graph.nodes[i].output[0] in before for i in waiting)
        if blocked or linear.y in before:
            return None, shift
        return self.repaired.value(names[0]), shift

    def _bias_behind(self, linear: Linear) -> tuple[str, Array] | None:
        """Return the sum of an operator and its bias, and the bias, where a node of its own adds it."""
        node = next(n for n in self.graph.nodes if linear.y in n.input)
        if linear.bias_slot is not None or node.op_type != "Add":
            return None
        weight = self.graph.weights.get(next((n for n in node.input if n != linear.y), ""))
        if weight is None or weight.shape[-1:] != (int(np.prod(weight.shape, dtype=np.int64)),):
            return None
        return node.output[0], np.asarray(weight.array).ravel()


def linear_of(linear: Linear, block: KeptBlock) -> Linear:
    """Return the operator as it is after the cut: fewer convolution groups, same geometry."""
    return dataclasses.replace(linear, groups=len(block.groups))


REPAIRS.register("sequential")(SequentialRepair())
