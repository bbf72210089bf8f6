"""Dropout put back where an exporter left it out: inference has none, training may want it."""

from __future__ import annotations

import copy

from torch import fx, nn

from ..core.errors import OnnxPruneError
from .ops import linear

_DENSE = (linear.matmul, linear.gemm)


def insert_dropout(module: fx.GraphModule, share: float) -> fx.GraphModule:
    """Return a copy of a module with Dropout in front of every product with a learned matrix.

    It acts in training mode only; `to_onnx` knows nothing of it. Inputs of the module are left whole.

    Args:
        module: of `from_onnx`.
        share: of the values that are set to zero, above 0 and below 1.

    Raises:
        OnnxPruneError: if the share is none, or there is no such product.
    """
    if not 0 < share < 1:
        raise OnnxPruneError(f"a Dropout of {share}: expected a share above 0 and below 1")
    module = copy.deepcopy(module)
    learned = {name for name, _ in module.named_parameters()}
    places = [node for node in module.graph.nodes if _reads(node, learned)]
    if not places:
        raise OnnxPruneError(
            "the module has no product with a learned matrix to put Dropout in front of"
        )
    for node in places:
        path = f"{node.name}_dropout"
        module.add_submodule(path, nn.Dropout(share).train(module.training))
        with module.graph.inserting_before(node):
            dropped = module.graph.call_module(path, (node.args[0],))
        node.args = (dropped, *node.args[1:])
    module.recompile()
    return module


def _reads(node: fx.Node, learned: set[str]) -> bool:
    """Tell whether a node multiplies what was computed with a parameter."""
    if node.target not in _DENSE:
        return False
    x, weight = node.args[:2]
    return (
        isinstance(x, fx.Node)
        and isinstance(weight, fx.Node)
        and x.op not in {"placeholder", "get_attr"}
        and weight.op == "get_attr"
        and weight.target in learned
    )
