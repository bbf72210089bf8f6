"""BatchNormalization made fit to train: with the samples' statistics, put back where it was folded.

In training it takes statistics of the batch. Where the running ones m and v are not those of the samples,
m' and v' (after a repair, or on other samples than the model was trained on), a model in training mode is
another than in evaluation; `refresh_batchnorm` makes them alike, by

    scale' = scale sqrt(v' + eps) / sqrt(v + eps),  shift' = shift + (m' - m) scale / sqrt(v + eps),

with which evaluation with m' and v' gives what it gave.

Without any, training is slow and frail. By `unfold_batchnorm` a BatchNorm stands again behind each
convolution with a bias, and changes nothing at first. With mean m and variance v of the convolution's
outputs over samples, its parameters are

    scale = sqrt(v + eps),  shift = m,  so that  scale (y - m) / sqrt(v + eps) + shift = y.

After training it is folded again, which is exact in evaluation mode:

    w' = w scale / sqrt(v + eps),  b' = (b - m) scale / sqrt(v + eps) + shift.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, fx, nn

from ..core.errors import DataError
from .ops.linear import conv
from .ops.norm import BatchNormalization

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def refresh_batchnorm(
    module: fx.GraphModule, batches: Iterable[Sequence[Tensor]]
) -> fx.GraphModule:
    """Return a copy of a module whose BatchNormalization has the running statistics of samples.

    In evaluation mode it computes what `module` computes, and in training mode nearly that. What shares
    a parameter with another node is left as it is.

    Args:
        module: of `from_onnx`.
        batches: inputs of the module, from which means and variances are taken.

    Raises:
        DataError: if there are no batches.
    """
    module = copy.deepcopy(module).eval()
    norms = [node for node in module.graph.nodes if _is_norm(module, node)]
    if not norms:
        return module
    moments = _moments(module, {node.args[0] for node in norms}, batches)
    held = module.state_dict()
    with torch.no_grad():
        for node in norms:
            norm = module.get_submodule(node.target)
            assert isinstance(norm, BatchNormalization)
            scale, shift, m, v = (held[str(a.target)] for a in node.args[1:])
            mean, variance = (x.to(m) for x in moments[node.args[0]])
            factor = scale / torch.sqrt(v + norm.epsilon)
            shift += (mean - m) * factor
            scale.copy_(factor * torch.sqrt(variance + norm.epsilon))
            m.copy_(mean)
            v.copy_(variance)
    return module


def unfold_batchnorm(module: fx.GraphModule, batches: Iterable[Sequence[Tensor]]) -> fx.GraphModule:
    """Return a copy of a module with BatchNorm behind every convolution that has a bias.

    In evaluation mode it computes what `module` computes; `to_onnx` folds BatchNorm back.

    Args:
        module: of `from_onnx`.
        batches: inputs of the module, from which means and variances are taken.

    Raises:
        DataError: if there are no batches.
    """
    module = copy.deepcopy(module).eval()
    places = {node: _parameters(node) for node in module.graph.nodes if _is_folded(node)}
    moments = _moments(module, set(places), batches)
    unfolded = {}
    for node, (weight, bias) in places.items():
        path = f"{node.name}_norm"
        module.add_submodule(path, _norm(module.get_parameter(weight), *moments[node]))
        with module.graph.inserting_after(node):
            behind = module.graph.call_module(path)
        node.replace_all_uses_with(behind)
        behind.args = (node,)
        unfolded[path] = (weight, bias)
    module.recompile()
    module.meta["unfolded"] = unfolded
    return module


def folded(module: fx.GraphModule) -> dict[str, Tensor]:
    """Return the values of a module by path, those of unfolded BatchNorm in their convolutions."""
    state = dict(module.state_dict())
    for path, (weight, bias) in module.meta.get("unfolded", {}).items():
        norm = module.get_submodule(path)
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        w, b = state[weight], state[bias]
        state[weight] = w * factor.reshape(-1, *[1] * (w.ndim - 1))
        state[bias] = (b - norm.running_mean) * factor + norm.bias
    return state


def _parameters(node: fx.Node) -> tuple[str, str]:
    """Return the paths of a convolution's weight and bias."""
    weight, bias = node.args[1:3]
    assert isinstance(weight, fx.Node)
    assert isinstance(bias, fx.Node)
    return str(weight.target), str(bias.target)


def _is_folded(node: fx.Node) -> bool:
    """Tell whether a node is a convolution with parameters of its own, a bias among them."""
    held = [a for a in node.args[1:] if isinstance(a, fx.Node)]
    own = [a for a in held if a.op == "get_attr" and len(a.users) == 1]
    return node.target is conv and len(held) == len(own) == 2


def _is_norm(module: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether a node is BatchNormalization with parameters of its own."""
    if node.op != "call_module":
        return False
    own = [a for a in node.args[1:] if isinstance(a, fx.Node) and len(a.users) == 1]
    is_held = all(a.op == "get_attr" for a in own) and len(own) == len(node.args) - 1
    return is_held and isinstance(module.get_submodule(str(node.target)), BatchNormalization)


class _Watch(fx.Interpreter):
    """Runs a module and sums up, per channel, what some nodes make of it."""

    def __init__(self, module: fx.GraphModule, nodes: set[fx.Node]) -> None:
        super().__init__(module)
        self.sums: dict[fx.Node, tuple[Tensor, Tensor, int]] = {}
        self.nodes = nodes

    def run_node(self, n: fx.Node) -> Tensor:
        value: Tensor = super().run_node(n)
        if n in self.nodes:
            rows = value.double().transpose(0, 1).flatten(1)
            first, second, count = self.sums.get(n, (0.0, 0.0, 0))
            self.sums[n] = (
                first + rows.sum(1),
                second + rows.square().sum(1),
                count + rows.shape[1],
            )
        return value


def _moments(
    module: fx.GraphModule, nodes: set[fx.Node], batches: Iterable[Sequence[Tensor]]
) -> dict[fx.Node, tuple[Tensor, Tensor]]:
    """Return mean and variance of each channel of some nodes."""
    watch, count = _Watch(module, nodes), 0
    with torch.no_grad():
        for count, batch in enumerate(batches, 1):  # noqa: B007
            watch.run(*batch)
    if not count:
        raise DataError("no samples to take means and variances from: give at least one batch")
    found = {}
    for node, (first, second, rows) in watch.sums.items():
        mean = first / rows
        found[node] = mean, (second / rows - mean.square()).clamp(min=0)
    return found


def _norm(weight: Tensor, mean: Tensor, variance: Tensor) -> nn.Module:
    """Return the BatchNorm that changes nothing in evaluation mode."""
    norm = _KINDS[weight.ndim - 3](len(mean)).to(weight).eval()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_(torch.sqrt(variance + norm.eps))
        norm.bias.copy_(mean)
    return norm
