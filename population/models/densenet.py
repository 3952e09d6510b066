"""DenseNet-BC for small images: each layer reads the outputs of all layers before it.

Source: Huang et al. 2017 (arXiv:1608.06993). DenseNet-BC-100 with growth 12 has 0.8M parameters.
`densenet40` is the bottleneck form with compression too, of 0.2M. The published DenseNet-40 has neither, and 1.0M.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DenseLayer(nn.Module):
    """A 1x1 convolution to four times the growth, then a 3x3 convolution. Its outputs are appended to the inputs."""

    def __init__(self, inputs: int, growth: int) -> None:
        """Build the layers."""
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the output of the module for a batch of images."""
        hidden = self.conv1(F.relu(self.bn1(images)))
        return torch.cat([images, self.conv2(F.relu(self.bn2(hidden)))], dim=1)


class Transition(nn.Module):
    """A 1x1 convolution and an average pooling that halves the height and the width."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Build the layers."""
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the output of the module for a batch of images."""
        return F.avg_pool2d(self.conv(F.relu(self.bn(images))), 2)


class CifarDenseNet(nn.Module):
    """DenseNet-BC for images of at least 8 pixels a side."""

    def __init__(self, depth: int, growth: int, *, num_classes: int, in_channels: int = 3) -> None:
        """Build the model. Each transition halves the channels.

        Args:
            depth: 6n + 4, with n at least 1.
            growth: Channels that each layer adds.
            num_classes: Width of the logits.
            in_channels: Channels of the images.

        Raises:
            ValueError: The depth is not 6n + 4.
        """
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6n + 4 with n at least 1, got {depth}")
        channels = 2 * growth
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        layers: list[nn.Module] = []
        for stage in range(3):
            if stage:
                layers.append(Transition(channels, channels // 2))
                channels //= 2
            for _ in range((depth - 4) // 6):
                layers.append(DenseLayer(channels, growth))
                channels += growth
        self.layers = nn.Sequential(*layers)
        self.bn = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (batch, num_classes) for images (batch, channels, height, width)."""
        hidden = F.relu(self.bn(self.layers(self.conv1(images))))
        return self.linear(hidden.mean(dim=(2, 3)))


densenet100 = partial(CifarDenseNet, 100, 12)
densenet40 = partial(CifarDenseNet, 40, 12)
