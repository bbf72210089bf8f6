"""Least-squares repair from the original model's second moments, every reader on its own.

The original output is y = W x + b exactly, so cov(y, x_kept) = W S[:, kept] and no second run is
needed. Errors of earlier layers are not corrected: that is what `sequential` adds.
"""

from __future__ import annotations

import logging

import numpy as np

from onnxprune.core.contracts import REPAIRS, RepairTask
from onnxprune.core.declared import Linear
from onnxprune.core.graph import Graph
from onnxprune.core.linear import add_to_bias, weight_matrices, weight_tensor

from ._columns import kept_block, lost_linears, shared_weights
from ._refit import RIDGE, refit, rounding
from .mean import MeanRepair

log = logging.getLogger(__name__)


class LeastSquaresRepair:
    """Refits each reader of removed inputs to its original output."""

    needs = frozenset({"moments", "second"})
    needs_samples = False

    def apply(self, task: RepairTask) -> Graph:
        """Return a copy of the pruned graph with refitted readers.

        Readers without second moments (too wide), or whose weight is tied, get the mean correction.
        """
        graph, statistics = task.pruned.copy(), task.evidence.required()
        tied = shared_weights(graph)
        for number, (linear, gone) in enumerate(found := list(lost_linears(task.mask))):
            task.progress("repair", number, len(found))
            if linear.weight in tied or not self._refit(graph, linear, task):
                log.info("'%s' gets the mean correction only", linear.weight)
                MeanRepair.correct(graph, linear, gone, task, statistics)
        return graph

    def _refit(self, graph: Graph, linear: Linear, task: RepairTask) -> bool:
        moments = task.evidence.required().second.get(linear.node)
        block = kept_block(task.mask, linear)
        if moments is None or block is None:
            return False
        weight = weight_matrices(task.evidence.weight(linear.weight), linear)
        full = weight[block.groups[:, None], block.rows]
        old = block.cut(weight)
        covariance, mean = moments.covariance[block.groups], moments.mean[block.groups]
        cross = full @ covariance[:, :, block.columns]
        kept = covariance[:, block.columns[:, None], block.columns]
        ridges = moments.ridge(RIDGE)[block.groups] if task.ridge is None else task.ridge
        ridge = np.broadcast_to(np.reshape(ridges, (-1, 1)), old.shape[:2])
        new = refit(kept, cross, old, ridge, rounding(mean[:, block.columns]))
        shift = np.einsum("gqp,gp->gq", full, mean) - np.einsum(
            "gqp,gp->gq", new, mean[:, block.columns]
        )
        tensor = graph.weights[linear.weight]
        graph.weights[linear.weight] = tensor.replace(
            weight_tensor(new, linear, tensor.array.dtype)
        )
        add_to_bias(graph, linear, shift.ravel())
        return True


REPAIRS.register("least-squares")(LeastSquaresRepair())
