"""How a pruned model is retrained: all settings of one run, which a checkpoint is bound to."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Literal, get_args

import torch
from torch import nn

from ..core.errors import OnnxPruneError
from .augment import MIXUP, check

Optimizer = Literal["sgd", "adamw", "foof"]
Precision = Literal["float32", "bfloat16"]
Taught = Literal["onnxruntime", "pytorch"]

_HELD = 1000  # samples by which a percent of accuracy can be told
_SUITS: dict[Optimizer, tuple[float, float]] = {  # rate, and weight of block ends
    "sgd": (0.01, 0.0),  # plain gradients make nothing of block ends
    "adamw": (1e-4, 0.0),
    "foof": (0.1, 1000.0),
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Distillation from the original model (Hinton et al. 2015, arXiv 1503.02531).

    Attributes:
        epochs: passes over the samples.
        batch: samples a step.
        optimizer: SGD with Nesterov momentum 0.9, AdamW, or SGD whose gradients are freed of what each
            layer's inputs have in common (`foof.py`): far fewer steps where features are compared.
        damping: of the latter, in mean second moments of a layer's inputs.
        rate: of learning, after the warm-up; falls to zero along a cosine. None: what suits the optimizer.
        warmup: share of the steps in which the rate rises from zero.
        decay: of weights; not of biases, norms and other vectors.
        temperature: that both models' logits are divided by.
        label_weight: share of the labels' loss in the loss, if there are labels or a loss of the user's.
        features: weight of the distance at block ends, beside the loss; needs the plan. None: what suits
            the optimizer where there are such ends and a plan lies beside the model, else zero.
        loss: of the user's in place of cross-entropy, `module:function`: called with two mappings, of
            the outputs by name and of the batch by name (inputs, and what else the data has), all of
            them tensors; returns one number as a tensor.
        clip: largest norm of a gradient. The squared temperature makes norms of 50 to 200 for ten
            classes: 1 then cuts every step of SGD to the length that the rate says.
        augment: changes of images: zoom, crop, flip, cutout, mixup.
        repeat: epochs that are drawn; those after them take the same batches, changes included, in
            another order, and what the teacher said of them is kept, as far as a gigabyte goes: it then
            costs no more. 0: every epoch is drawn anew.
        average: how much of the running average of weights stays in a step, such as 0.999; 0: none.
        unfold: whether BatchNormalization goes by the statistics of each batch; what the exporter folded
            is put back while training lasts. Without, it keeps its statistics and trains scale and
            shift: those of a small batch are noise to a model that is to say what another says.
        holdout: share of the samples that is not trained on; the weights that do best there are kept,
            those before training among them: training on a few hundred samples often only harms. None: a
            tenth of them, at most a thousand; none of fewer than ten.
        patience: epochs without progress on these after which training ends; 0: it goes on.
        precision: that the student computes in; its weights stay float32.
        taught_by: what runs the teacher. PyTorch runs it on the student's device in the same precision,
            which bfloat16 makes faster; onnxruntime runs it as the file says.
        compile: whether `torch.compile` makes kernels first (minutes, worth it on a GPU).
        seed: of the order of samples, of changes, and of Dropout.
    """

    epochs: int = 5
    batch: int = 128
    optimizer: Optimizer = "foof"
    damping: float = 1.0
    rate: float | None = None
    warmup: float = 0.05
    decay: float = 5e-4
    temperature: float = 4.0
    label_weight: float = 0.1
    features: float | None = None
    loss: str | None = None
    clip: float = 1.0
    augment: tuple[str, ...] = ()
    repeat: int = 0
    average: float = 0.0
    unfold: bool = False
    holdout: float | None = None
    patience: int = 0
    precision: Precision = "float32"
    taught_by: Taught = "onnxruntime"
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no training.

        Raises:
            OnnxPruneError: in one line.
        """
        given = {name: value for name, value in vars(self).items() if value is not None}
        for name in ("epochs", "batch", "damping", "rate", "temperature", "clip"):
            if given.get(name, 1) <= 0:
                raise OnnxPruneError(f"--{name} is {given[name]}: it must be above zero")
        for name in ("warmup", "decay", "features", "repeat", "patience", "seed"):
            if given.get(name, 0) < 0:
                raise OnnxPruneError(f"--{name} is {given[name]}: it must not be negative")
        for name in ("average", "holdout", "label_weight"):
            if not 0 <= given.get(name, 0) <= 1:
                option = name.replace("_", "-")
                raise OnnxPruneError(f"--{option} is {given[name]}: expected 0 to 1")
        for name, known in (
            ("optimizer", Optimizer), ("precision", Precision), ("taught_by", Taught),
        ):  # fmt: skip
            if getattr(self, name) not in get_args(known):
                option, expected = name.replace("_", "-"), " or ".join(get_args(known))
                raise OnnxPruneError(f"--{option} is '{getattr(self, name)}': expected {expected}")
        if self.patience and self.holdout == 0:
            raise OnnxPruneError("--patience needs samples to judge by: give --holdout 0.05, too")
        if self.loss and MIXUP in self.augment:
            raise OnnxPruneError("--augment mixup mixes labels, which --loss cannot: leave one out")
        check(self.augment)

    @property
    def highest_rate(self) -> float:
        """The learning rate after the warm-up."""
        return _SUITS[self.optimizer][0] if self.rate is None else self.rate

    @property
    def features_if_any(self) -> float:
        """The weight of the distance at block ends where there are some."""
        return _SUITS[self.optimizer][1] if self.features is None else self.features

    def aside(self, count: int, chunk: int) -> int:
        """Return how many of so many chunks of samples are held out."""
        if self.holdout is None:
            return min(count // 10, _HELD // chunk)
        return round(self.holdout * count)

    def rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate of a step."""
        rising, highest = max(1, round(self.warmup * steps)), self.highest_rate
        if step < rising:
            return highest * (step + 1) / rising
        return highest * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2

    def optimizer_of(self, module: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of a module's parameters."""
        held = [p for p in module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in held if p.ndim > 1], "weight_decay": self.decay},
            {"params": [p for p in held if p.ndim <= 1], "weight_decay": 0.0},
        ]
        if self.optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=self.highest_rate)
        return torch.optim.SGD(groups, lr=self.highest_rate, momentum=0.9, nesterov=True)

    def digest(self) -> str:
        """Return all settings as text: a checkpoint of other settings is not resumed."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)
