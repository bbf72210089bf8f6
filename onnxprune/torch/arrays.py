"""Arrays of NumPy as tensors, for code that runs on arrays of any library."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def has_cuda() -> bool:
    """Tell whether there is a CUDA device."""
    return torch.cuda.is_available()


def tensor(array: NDArray[Any], device: str) -> Tensor:
    """Return a copy of the same shape and type on a device, such as "cpu" or "cuda"."""
    return torch.tensor(array, device=device)
