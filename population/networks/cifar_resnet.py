"""ResNets for small images: three stages of basic blocks, shortcuts without parameters.

Source: He et al. 2016 (arXiv:1512.03385), section 4.2, option A; leaky ReLU as in Meng et al. 2020's comparison.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

STAGE_CHANNELS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut that strides and pads channels with zeros where the shape changes."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, slope: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.added = outputs - inputs
        self.slope = slope

    def forward(self, images: Tensor) -> Tensor:
        hidden = _activate(self.bn1(self.conv1(images)), self.slope)
        hidden = self.bn2(self.conv2(hidden))
        if self.stride != 1 or self.added:
            images = images[:, :, :: self.stride, :: self.stride]
            images = F.pad(images, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        return _activate(hidden + images, self.slope)


class CifarResNet(nn.Module):
    """A ResNet of depth 6n + 2 for images of 8 pixels a side and more."""

    def __init__(self, depth: int, *, num_classes: int, in_channels: int = 3, leaky: bool = False) -> None:
        """Args: depth 6n + 2; num_classes; in_channels of the images; leaky ReLU (slope 0.01) in place of ReLU."""
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6n + 2 with n at least 1, got {depth}")
        self.slope = 0.01 if leaky else 0.0
        self.conv1 = nn.Conv2d(in_channels, STAGE_CHANNELS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STAGE_CHANNELS[0])
        blocks = (depth - 2) // 6
        self.layer1 = self._stage(STAGE_CHANNELS[0], STAGE_CHANNELS[0], blocks, stride=1)
        self.layer2 = self._stage(STAGE_CHANNELS[0], STAGE_CHANNELS[1], blocks, stride=2)
        self.layer3 = self._stage(STAGE_CHANNELS[1], STAGE_CHANNELS[2], blocks, stride=2)
        self.linear = nn.Linear(STAGE_CHANNELS[2], num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def _stage(self, inputs: int, outputs: int, blocks: int, *, stride: int) -> nn.Sequential:
        first = BasicBlock(inputs, outputs, stride=stride, slope=self.slope)
        rest = [BasicBlock(outputs, outputs, stride=1, slope=self.slope) for _ in range(blocks - 1)]
        return nn.Sequential(first, *rest)

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, channels, height, width) to logits (batch, num_classes)."""
        hidden = _activate(self.bn1(self.conv1(images)), self.slope)
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        return self.linear(hidden.mean(dim=(2, 3)))


def _activate(hidden: Tensor, slope: float) -> Tensor:
    return F.leaky_relu(hidden, slope, inplace=True) if slope else F.relu(hidden, inplace=True)
