"""Mean compensation: what was dropped is replaced by its calibration mean, folded into biases.

Removing input c of y = W x + b loses W_c x_c; its mean, b += sum_c sum_taps W_c mean(x_c), does not
need to be lost (FLAP, arXiv 2312.11983; exact where the input is constant and not padded).
"""

from __future__ import annotations

import numpy as np

from onnxprune.core.analysis import Bools
from onnxprune.core.contracts import REPAIRS, RepairTask
from onnxprune.core.declared import Linear
from onnxprune.core.graph import Graph
from onnxprune.core.linear import add_to_bias, weight_matrices
from onnxprune.core.stats import Statistics

from ._columns import kept_outputs, lost_linears


class MeanRepair:
    """Adds the mean contribution of the removed inputs to each reader's bias."""

    needs = frozenset({"moments"})
    needs_samples = False

    def apply(self, task: RepairTask) -> Graph:
        """Return a copy of the pruned graph with corrected biases."""
        graph, statistics = task.pruned.copy(), task.evidence.required()
        for linear, gone in lost_linears(task.mask):
            self.correct(graph, linear, gone, task, statistics)
        return graph

    @staticmethod
    def correct(
        graph: Graph, linear: Linear, gone: Bools, task: RepairTask, statistics: Statistics
    ) -> None:
        """Add the mean contribution of the inputs `gone` to one operator's bias, in place."""
        mean = statistics.moments[linear.x, linear.x_axis].mean
        weight = weight_matrices(task.evidence.weight(linear.weight), linear)
        groups, outputs, _ = weight.shape
        summed = weight.reshape(groups, outputs, len(mean) // groups, -1).sum(axis=-1)
        lost = np.where(gone, mean, 0.0).reshape(groups, -1)
        shift = np.einsum("goc,gc->go", summed, lost).ravel()
        add_to_bias(graph, linear, shift[kept_outputs(task.mask, linear)])


REPAIRS.register("mean")(MeanRepair())
