"""MobileNetV2 for small images: the published blocks, with the first two strides set to 1.

Source: Sandler et al. 2018 (arXiv:1801.04381). The strides are those of the grafting paper's code. A block of
stride 1 that changes the number of channels has a projection shortcut.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = (
    # expansion, output channels, repeats, stride of the first repeat
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def scaled(channels: int, width: float) -> int:
    """Return a number of channels times a width, as a multiple of 8 that is at least 8 and at least 90 % of that.

    Args:
        channels: Channels at width 1.
        width: Factor, above 0.

    Source: Sandler et al., the published code.
    """
    nearest = max(8, int(channels * width + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels * width else nearest + 8


class InvertedResidual(nn.Module):
    """A 1x1 convolution that expands, a 3x3 convolution of each channel, and a 1x1 convolution that projects."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, stride: int) -> None:
        """Build the layers."""
        super().__init__()
        hidden = inputs * expansion
        self.conv1 = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride=stride, padding=1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.is_residual = stride == 1
        self.shortcut = nn.Sequential()
        if self.is_residual and inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, images: Tensor) -> Tensor:
        """Return the output of the module for a batch of images."""
        hidden = F.relu(self.bn1(self.conv1(images)))
        hidden = F.relu(self.bn2(self.conv2(hidden)))
        hidden = self.bn3(self.conv3(hidden))
        return hidden + self.shortcut(images) if self.is_residual else hidden


class CifarMobileNetV2(nn.Module):
    """MobileNetV2 for images of at least 8 pixels a side."""

    def __init__(self, *, num_classes: int, in_channels: int = 3, width: float = 1.0) -> None:
        """Build the model.

        Args:
            num_classes: Width of the logits.
            in_channels: Channels of the images.
            width: Factor of the number of channels of all layers but the last convolution, which keeps 1280. Above 0
                and at most 1.
        """
        super().__init__()
        inputs = scaled(32, width)
        self.conv1 = nn.Conv2d(in_channels, inputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        blocks: list[nn.Module] = []
        for expansion, channels, repeats, stride in BLOCKS:
            outputs = scaled(channels, width)
            for index in range(repeats):
                block = InvertedResidual(inputs, outputs, expansion=expansion, stride=1 if index else stride)
                blocks.append(block)
                inputs = outputs
        self.layers = nn.Sequential(*blocks)
        self.conv2 = nn.Conv2d(inputs, 1280, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1280)
        self.linear = nn.Linear(1280, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (batch, num_classes) for images (batch, channels, height, width)."""
        hidden = F.relu(self.bn1(self.conv1(images)))
        hidden = F.relu(self.bn2(self.conv2(self.layers(hidden))))
        return self.linear(hidden.mean(dim=(2, 3)))


mobilenetv2_half = partial(CifarMobileNetV2, width=0.5)
mobilenetv2_quarter = partial(CifarMobileNetV2, width=0.25)
"""MobileNetV2 with a half and a quarter of the channels."""
