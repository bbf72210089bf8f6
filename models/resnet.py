"""ResNet-20/32/44/56 for 32x32 images, after He et al., CVPR 2016, section 4.2.

Three stages of 16, 32 and 64 channels with n blocks each, depth 6 n + 2. Where a stage begins
smaller and wider, the shortcut is "option A": every second pixel, and zero channels added on both
sides. It has no parameters, so it can not absorb a change of channels, and pruning must follow
channel i of one stage into channel 8 + i of the next.

Names of modules are those of the public CIFAR-10 weights of `akamaster/pytorch_resnet_cifar10`.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEPTHS = (20, 32, 44, 56)


class OptionA(nn.Module):
    """The shortcut without parameters: subsamples by two, pads channels with zeros.

    Args:
        inputs: channels before.
        outputs: channels after; the difference is added half in front, half behind.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.pad = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, ceil(H / 2), ceil(W / 2))."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad), "constant", 0.0)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNormalization around a shortcut.

    Args:
        inputs: channels before.
        outputs: channels after.
        stride: 1 or 2, of the first convolution and the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        changes = stride != 1 or inputs != outputs
        self.shortcut: nn.Module = OptionA(inputs, outputs) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + self.shortcut(x))


class CifarResNet(nn.Module):
    """The CIFAR ResNet of a given depth.

    Args:
        depth: one of 20, 32, 44, 56 (269,722 to 853,018 parameters).
        classes: length of the output.
    """

    def __init__(self, depth: int = 20, classes: int = 10) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"depth is {depth}, expected one of {DEPTHS}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of colour images.

        Args:
            images: float32, shape (N, 3, 32, 32), dimensionless; the public weights expect
                (pixel / 255 - mean) / std with mean .485 .456 .406 and std .229 .224 .225.

        Returns:
            Logits, float32, shape (N, classes).
        """
        x = torch.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = x.mean((2, 3))
        logits: Tensor = self.linear(x)
        return logits


def load(path: Path) -> CifarResNet:
    """A trained network from a checkpoint of the public weights.

    Args:
        path: a file written by `torch.save`: a dictionary with `state_dict`, whose names may begin
            with `module.` (they were trained with DataParallel). Nothing but tensors is unpickled.

    Returns:
        The network, in evaluation mode; the depth is read from the weights.

    Raises:
        ValueError: if the number of blocks fits none of the depths.
    """
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    state = {
        name.removeprefix("module."): value for name, value in checkpoint["state_dict"].items()
    }
    blocks = len({name.split(".")[1] for name in state if name.startswith("layer1.")})
    network = CifarResNet(depth=6 * blocks + 2, classes=state["linear.weight"].shape[0])
    network.load_state_dict(state)
    return network.eval()


def _stage(inputs: int, outputs: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))
