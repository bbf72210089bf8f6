"""LeNet-5 for 28x28 grey images, after LeCun et al., "Gradient-based learning", 1998.

The classic five layers with what became usual since: ReLU instead of the scaled tanh, maximum
instead of trainable pooling, full connections between the two convolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LeNet5(nn.Module):
    """Five layers, 61,706 parameters with ten classes.

    Args:
        classes: length of the output.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)
        self.pool = nn.MaxPool2d(2)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of grey images.

        Args:
            images: float32, shape (N, 1, 28, 28), dimensionless; MNIST is trained with
                (pixel / 255 - 0.1307) / 0.3081.

        Returns:
            Logits, float32, shape (N, classes).
        """
        x = self.pool(torch.relu(self.conv1(images)))
        x = self.pool(torch.relu(self.conv2(x)))
        x = torch.flatten(x, 1)
        x = torch.relu(self.fc1(x))
        x = torch.relu(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits
