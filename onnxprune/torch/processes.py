"""One process, or several that train together: Accelerate finds the others and averages gradients.

    accelerate launch --num_processes 2 -m onnxprune retrain ...

Every process reads the whole batch and computes its share, so that a step is the step of one process.
BatchNormalization takes its statistics from the share alone.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..core.errors import OnnxPruneError

if TYPE_CHECKING:
    from accelerate import Accelerator


class Processes:
    """All processes of a run.

    Attributes:
        rank: which one this is.
        count: how many there are.
        device: of this one.
    """

    def __init__(self, device: str) -> None:
        """Meet the others, if a launcher has started several.

        Args:
            device: "cpu", "cuda" or "auto", which is "cuda" where there is one.

        Raises:
            OnnxPruneError: if there is no such device, or Accelerate is missing.
        """
        if device not in {"auto", "cpu", "cuda"}:
            raise OnnxPruneError(f"--device is '{device}': expected auto, cpu or cuda")
        if device == "cuda" and not torch.cuda.is_available():
            raise OnnxPruneError("--device cuda: PyTorch finds no CUDA device; give --device cpu")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._accelerator: Accelerator | None = None
        self.rank, self.count, self.device = 0, 1, torch.device(device)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            self._accelerator = _accelerator(device == "cpu")
            self.rank, self.count = self._accelerator.process_index, self._accelerator.num_processes
            self.device = self._accelerator.device

    @property
    def is_main(self) -> bool:
        """Whether this one writes and speaks."""
        return self.rank == 0

    def wrap(self, module: Any) -> Any:
        """Return what computes a module such that gradients are averaged over all processes."""
        return self._accelerator.prepare_model(module) if self._accelerator else module

    def part(self, size: int) -> slice:
        """Return the share of a batch that is this one's."""
        each = size // self.count
        return slice(self.rank * each, (self.rank + 1) * each)

    def apart(self, module: nn.Module) -> AbstractContextManager[Any]:
        """Let gradients add up here, without averaging, inside the block."""
        return self._accelerator.no_sync(module) if self._accelerator else nullcontext()

    def mean(self, value: Tensor) -> float:
        """Return the mean of a number over all processes."""
        value = value.detach()
        if self._accelerator:
            value = self._accelerator.reduce(value, "mean")
        return float(value)

    def wait(self) -> None:
        """Wait for all others."""
        if self._accelerator:
            self._accelerator.wait_for_everyone()


def _accelerator(cpu: bool) -> Accelerator:
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise OnnxPruneError(
            'several processes need Accelerate: pip install "onnxprune[distributed]"'
        ) from error
    return Accelerator(cpu=cpu)
