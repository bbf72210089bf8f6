"""How a pruned model is retrained: all settings of one run, which a checkpoint is bound to."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Literal

import torch
from torch import nn

from ..core.errors import OnnxPruneError


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Distillation from the original model (Hinton et al. 2015, arXiv 1503.02531).

    Attributes:
        epochs: passes over the samples.
        batch: samples a step.
        optimizer: SGD with Nesterov momentum 0.9, or AdamW.
        rate: of learning, after the warm-up; falls to zero along a cosine.
        warmup: share of the steps in which the rate rises from zero.
        decay: of weights; not of biases, norms and other vectors.
        temperature: that both models' logits are divided by.
        label_weight: share of the cross-entropy with labels in the loss, if there are labels.
        clip: largest norm of a gradient.
        seed: of the order of samples, and of Dropout.
    """

    epochs: int = 5
    batch: int = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    rate: float = 0.01
    warmup: float = 0.05
    decay: float = 5e-4
    temperature: float = 4.0
    label_weight: float = 0.1
    clip: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no training.

        Raises:
            OnnxPruneError: in one line.
        """
        for name in ("epochs", "batch", "rate", "temperature", "clip"):
            if getattr(self, name) <= 0:
                raise OnnxPruneError(f"--{name} is {getattr(self, name)}: it must be above zero")
        if self.optimizer not in {"sgd", "adamw"}:
            raise OnnxPruneError(f"--optimizer is '{self.optimizer}': expected sgd or adamw")

    def rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate of a step."""
        rising = max(1, round(self.warmup * steps))
        if step < rising:
            return self.rate * (step + 1) / rising
        return self.rate * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2

    def optimizer_of(self, module: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of a module's parameters."""
        held = [p for p in module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in held if p.ndim > 1], "weight_decay": self.decay},
            {"params": [p for p in held if p.ndim <= 1], "weight_decay": 0.0},
        ]
        if self.optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=self.rate)
        return torch.optim.SGD(groups, lr=self.rate, momentum=0.9, nesterov=True)

    def digest(self) -> str:
        """Return all settings as text: a checkpoint of other settings is not resumed."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)
