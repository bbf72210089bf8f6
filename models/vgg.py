"""VGG-16 with BatchNormalization for 32x32 images, after Simonyan & Zisserman, ICLR 2015.

The CIFAR form used throughout the pruning literature: 13 convolutions of 3x3 in five stages, a
2x2 maximum after each stage (so 1x1 is left), and a small head instead of the 4096-wide one.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

# Output channels of the convolutions, one tuple a stage.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """13 convolutions with BatchNormalization and a head.

    Args:
        classes: length of the output.
        hidden: width of the hidden layer of the head (15.0 M parameters with 512), or None for
            one linear layer 512 -> classes (14.7 M parameters).
    """

    def __init__(self, classes: int = 10, hidden: int | None = 512) -> None:
        super().__init__()
        widths = [3, *itertools.chain.from_iterable(STAGES)]
        layers: list[nn.Module] = []
        pairs = itertools.pairwise(widths)
        for stage in STAGES:
            for inputs, outputs in itertools.islice(pairs, len(stage)):
                # No bias: the BatchNormalization that follows would cancel it.
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)]
                layers += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head: nn.Module = (
            nn.Linear(widths[-1], classes)
            if hidden is None
            else nn.Sequential(nn.Linear(widths[-1], hidden), nn.ReLU(), nn.Linear(hidden, classes))
        )

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of colour images.

        Args:
            images: float32, shape (N, 3, 32, 32), dimensionless; CIFAR-10 is trained with pixel /
                255 standardised per channel.

        Returns:
            Logits, float32, shape (N, classes).
        """
        x = torch.flatten(self.features(images), 1)
        logits: Tensor = self.head(x)
        return logits
