"""A file beside the module made of it, on the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from onnx import ModelProto, TensorProto, helper
from torch import Tensor, fx

from onnxprune.core.graph import Graph
from onnxprune.core.runtime import Session

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
SIZES = {"N": 3, "T": 5}  # of the symbolic lengths of examples
_SILENT = 1e-2  # smaller outputs are compared as they are: onnxruntime rounds a Sigmoid to 1e-7


def drawn(model: ModelProto, seed: int = 0) -> Feeds:
    """Random inputs: normal floats, small whole numbers."""
    rng = np.random.default_rng(seed)
    feeds: Feeds = {}
    for value in Graph.from_model(model).inputs:
        kind = value.type.tensor_type
        shape = [SIZES.get(d.dim_param, d.dim_value or 2) for d in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        noise = rng.standard_normal(shape)
        if kind.elem_type == TensorProto.BOOL:
            feeds[value.name] = noise > 0
        elif np.issubdtype(dtype, np.integer):
            feeds[value.name] = rng.integers(0, 3, shape).astype(dtype)
        else:
            feeds[value.name] = noise.astype(dtype)
    return feeds


def outputs_of(model: ModelProto, feeds: Feeds) -> list[Array]:
    """What onnxruntime says, graph optimisation off."""
    return list(Session(model, optimise=False, threads=1).run(feeds).values())


def called(module: fx.GraphModule, feeds: Feeds) -> list[Tensor]:
    """What the module says."""
    found = module(*(torch.from_numpy(np.array(value)) for value in feeds.values()))
    return [found] if isinstance(found, Tensor) else list(found)


def gap(found: Sequence[Tensor], expected: Sequence[Array]) -> float:
    """Largest difference over largest value; infinite if shapes differ, or what is no number."""
    assert len(found) == len(expected)
    worst = 0.0
    for tensor, array in zip(found, expected, strict=True):
        mine, theirs = tensor.detach().double().numpy(), array.astype(np.float64)
        if mine.shape != theirs.shape or (np.isfinite(mine) != np.isfinite(theirs)).any():
            return float("inf")
        finite = np.isfinite(theirs)
        assert finite.any() or not finite.size, "nothing is compared"
        difference = np.abs(mine - theirs)[finite].max(initial=0.0)
        worst = max(worst, difference / max(np.abs(theirs[finite]).max(initial=0.0), _SILENT))
    return worst


def step(module: fx.GraphModule, feeds: Feeds) -> None:
    """One step of Adam in training mode towards smaller outputs; evaluation mode afterwards."""
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-4)
    floats = [y for y in called(module.train(), feeds) if y.requires_grad]
    torch.stack([y.square().mean() for y in floats]).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    module.eval()
