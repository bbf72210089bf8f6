"""Slices parameters of a module in place, and tells its layers their new sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Ints = NDArray[np.int64]

_SHAPED: Mapping[type[nn.Module], tuple[str, ...]] = {  # attributes that are lengths of `weight`
    nn.Linear: ("out_features", "in_features"),
    nn.Embedding: ("num_embeddings", "embedding_dim"),
    nn.modules.batchnorm._NormBase: ("num_features",),
    nn.GroupNorm: ("num_channels",),
    nn.PReLU: ("num_parameters",),
}


def resize(
    module: nn.Module, kept: Mapping[str, Sequence[Ints]], groups: Mapping[str, int]
) -> None:
    """Slice a module's tensors; ties stay, as do `requires_grad` and devices.

    Args:
        module: changed in place.
        kept: per parameter or buffer, by path, the positions along each axis.
        groups: of convolutions, by the path of their weight.
    """
    done: dict[int, Tensor] = {}
    for path, rows in kept.items():
        holder, _, name = path.rpartition(".")
        layer = module.get_submodule(holder)
        old: Tensor = getattr(layer, name)
        if id(old) not in done:
            done[id(old)] = _sliced(old, rows)
        setattr(layer, name, done[id(old)])
    for path, layer in module.named_modules():
        _tell(layer, groups.get(f"{path}.weight" if path else "weight"))


def _sliced(old: Tensor, rows: Sequence[Ints]) -> Tensor:
    """Return a tensor with these positions; a parameter stays one."""
    value = old.detach()
    for axis, positions in enumerate(rows):
        value = value.index_select(axis, torch.from_numpy(positions).to(value.device))
    value = value.clone()
    return nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value


def _tell(layer: nn.Module, groups: int | None) -> None:
    """Set the attributes of a layer that repeat the shape of its weight."""
    weight = getattr(layer, "weight", None)
    if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.running_mean is not None:
        weight = layer.running_mean
    if not isinstance(weight, Tensor):
        return
    shape = tuple(weight.shape)
    for kind, names in _SHAPED.items():
        if isinstance(layer, kind):
            for name, size in zip(names, shape, strict=False):
                setattr(layer, name, size)
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        layer.normalized_shape = shape
    if isinstance(layer, nn.modules.conv._ConvNd):
        layer.groups = groups or layer.groups
        sizes = shape[0], shape[1] * layer.groups
        layer.out_channels, layer.in_channels = sizes[::-1] if layer.transposed else sizes
