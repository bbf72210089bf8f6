"""Which library computes with arrays: NumPy, or PyTorch on a CUDA device."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxprune.core.errors import OnnxPruneError, needs_torch

Arrays = Literal["auto", "numpy", "torch", "cuda"]
Place = Callable[[NDArray[Any]], Any]


def placing(arrays: Arrays, what: str) -> Place:
    """Return what takes arrays to the library and device that compute with them.

    "auto" is "cuda" where PyTorch finds such a device, else "numpy"; a machine without NVIDIA's
    tools is not asked, since to import PyTorch takes seconds. "torch" is PyTorch on the CPU.

    Args:
        arrays: the library.
        what: the setting, for messages: "cmi:arrays".

    Raises:
        OnnxPruneError: if PyTorch, or a CUDA device, is asked for and there is none.
    """
    if arrays == "numpy" or (arrays == "auto" and shutil.which("nvidia-smi") is None):
        return np.asarray
    try:
        with needs_torch(f"{what}={arrays}", "use numpy"):
            from onnxprune.torch.arrays import has_cuda, tensor
    except OnnxPruneError:
        if arrays == "auto":
            return np.asarray
        raise
    if arrays != "torch" and not has_cuda():
        if arrays == "auto":
            return np.asarray
        raise OnnxPruneError(f"{what}=cuda: PyTorch finds no CUDA device: use torch or numpy")
    return partial(tensor, device="cpu" if arrays == "torch" else "cuda")
