"""ResNeXt for small images: bottlenecks with a grouped 3x3 convolution.

Source: Xie et al. 2017 (arXiv:1611.05431). ResNeXt-29, 8x64d has 34.4M parameters with 10 classes.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn


class GroupedBlock(nn.Module):
    """A 1x1, a grouped 3x3 and a 1x1 convolution, with a shortcut that is projected where the shape changes."""

    def __init__(self, inputs: int, hidden: int, outputs: int, *, groups: int, stride: int) -> None:
        """Build the layers."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, images: Tensor) -> Tensor:
        """Return the output of the module for a batch of images."""
        hidden = F.relu(self.bn1(self.conv1(images)))
        hidden = F.relu(self.bn2(self.conv2(hidden)))
        return F.relu(self.bn3(self.conv3(hidden)) + self.shortcut(images))


class CifarResNeXt(nn.Module):
    """ResNeXt for images of at least 8 pixels a side."""

    def __init__(self, depth: int, groups: int, group_width: int, *, num_classes: int, in_channels: int = 3) -> None:
        """Build the model.

        Args:
            depth: 9n + 2, with n at least 1.
            groups: Groups of the 3x3 convolutions.
            group_width: Channels of a group in the first stage. Each further stage doubles them.
            num_classes: Width of the logits.
            in_channels: Channels of the images.

        Raises:
            ValueError: The depth is not 9n + 2.
        """
        super().__init__()
        if depth < 11 or (depth - 2) % 9:
            raise ValueError(f"depth must be 9n + 2 with n at least 1, got {depth}")
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        blocks: list[nn.Module] = []
        inputs = 64
        for stage in range(3):
            hidden, outputs = groups * group_width * 2**stage, 256 * 2**stage
            for index in range((depth - 2) // 9):
                stride = 2 if stage and not index else 1
                blocks.append(GroupedBlock(inputs, hidden, outputs, groups=groups, stride=stride))
                inputs = outputs
        self.layers = nn.Sequential(*blocks)
        self.linear = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (batch, num_classes) for images (batch, channels, height, width)."""
        hidden = self.layers(F.relu(self.bn1(self.conv1(images))))
        return self.linear(hidden.mean(dim=(2, 3)))


resnext29 = partial(CifarResNeXt, 29, 8, 64)
resnext11 = partial(CifarResNeXt, 11, 4, 16)
