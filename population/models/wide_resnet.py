"""Wide ResNets for small images: batch norm and ReLU before each convolution.

Source: Zagoruyko & Komodakis 2016 (arXiv:1605.07146). WRN-28-10 has depth 28 and widening factor 10.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

STEM = 16


class WideBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU. The shortcut is projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        """Build the layers."""
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        is_projected = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if is_projected else None

    def forward(self, images: Tensor) -> Tensor:
        """Return the output of the module for a batch of images."""
        hidden = F.relu(self.bn1(images))
        shortcut = images if self.shortcut is None else self.shortcut(hidden)
        return self.conv2(F.relu(self.bn2(self.conv1(hidden)))) + shortcut


class WideResNet(nn.Module):
    """A wide ResNet for images of at least 8 pixels a side."""

    def __init__(self, depth: int, widening: int, *, num_classes: int, in_channels: int = 3) -> None:
        """Build the model.

        Args:
            depth: 6n + 4, with n at least 1.
            widening: Factor by which the model is wider than a ResNet.
            num_classes: Width of the logits.
            in_channels: Channels of the images.

        Raises:
            ValueError: The depth is not 6n + 4.
        """
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6n + 4 with n at least 1, got {depth}")
        self.conv1 = nn.Conv2d(in_channels, STEM, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        inputs = STEM
        for stage in range(3):
            outputs = STEM * 2**stage * widening
            for index in range((depth - 4) // 6):
                blocks.append(WideBlock(inputs, outputs, stride=2 if stage and not index else 1))
                inputs = outputs
        self.layers = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(inputs)
        self.linear = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (batch, num_classes) for images (batch, channels, height, width)."""
        hidden = F.relu(self.bn(self.layers(self.conv1(images))))
        return self.linear(hidden.mean(dim=(2, 3)))


wrn28_10 = partial(WideResNet, 28, 10)
wrn16_4 = partial(WideResNet, 16, 4)
