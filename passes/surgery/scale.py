"""Least-squares scaling: kept inputs of a reader times one number each (ThiNet, arXiv 1707.06342).

    minimise  E || sum over all c of x_c - sum over kept c of w_c x_c ||^2 + lambda || w - 1 ||^2
    w = 1 + (G_KK + lambda I)^-1 G_K,gone 1,    lambda = ridge * tr(G_KK) / |K|

x_c is the contribution of channel c to the operator's outputs, G_cd = E x_c . x_d in closed form from
second moments. One number per channel where `least-squares` refits every weight and the bias.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from onnxprune.core.contracts import REPAIRS, Floats, RepairTask
from onnxprune.core.declared import Linear
from onnxprune.core.graph import Graph
from onnxprune.core.linear import weight_matrices, weight_tensor
from onnxprune.core.stats import SecondMoments

from ._columns import KeptBlock, kept_block, lost_linears, shared_weights
from ._refit import RIDGE

_LEAST = 1e-12  # of the mean energy of a channel: what never moves keeps its factor of one


class ScaleRepair:
    """Rescales the kept inputs of each reader; operators too wide for second moments stay."""

    needs = frozenset({"second"})
    needs_samples = False

    def apply(self, task: RepairTask) -> Graph:
        """Return a copy of the pruned graph with scaled readers."""
        graph, second = task.pruned.copy(), task.evidence.required().second
        tied = shared_weights(graph)
        for number, (linear, _) in enumerate(found := list(lost_linears(task.mask))):
            task.progress("repair", number, len(found))
            block = kept_block(task.mask, linear)
            if linear.weight not in tied and linear.node in second and block is not None:
                _scale(graph, linear, block, task, second[linear.node])
        return graph


def _scale(
    graph: Graph, linear: Linear, block: KeptBlock, task: RepairTask, moments: SecondMoments
) -> None:
    """Scale one reader, in place."""
    weight = weight_matrices(task.evidence.weight(linear.weight), linear)
    full, cut = weight[block.groups[:, None], block.rows], block.cut(weight)
    taps = int(np.prod(linear.kernel, dtype=np.int64))
    channels = weight.shape[2] // taps
    kept = np.unique(block.columns // taps)
    for place, group in enumerate(block.groups):
        mean = moments.mean[group]
        uncentred = moments.covariance[group] + np.outer(mean, mean)
        products = (full[place].T @ full[place]) * uncentred
        joint = products.reshape(channels, taps, channels, taps).sum(axis=(1, 3))
        cut[place] *= np.repeat(
            _factors(joint, kept, RIDGE if task.ridge is None else task.ridge), taps
        )
    tensor = graph.weights[linear.weight]
    graph.weights[linear.weight] = tensor.replace(weight_tensor(cut, linear, tensor.array.dtype))


def _factors(
    joint: Floats, kept: np.ndarray[tuple[int], np.dtype[np.int64]], ridge: float
) -> Floats:
    """Return w of the kept channels."""
    lost = np.delete(joint, kept, axis=1).sum(axis=1)[kept]
    system = joint[np.ix_(kept, kept)]
    energy = float(np.trace(system)) / len(kept)
    if not energy > 0:
        return np.ones(len(kept))
    system = system + (ridge + _LEAST) * energy * np.eye(len(kept))
    return 1.0 + np.asarray(cho_solve(cho_factor(system), lost))


REPAIRS.register("scale")(ScaleRepair())
