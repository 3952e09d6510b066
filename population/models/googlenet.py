"""GoogLeNet for 32x32 images: nine inception modules with batch norm.

Source: Szegedy et al. 2015 (arXiv:1409.4842). This is the form for small images that DCFF (arXiv:2107.06916)
compresses: the stem is one 3x3 convolution of 192 filters, and the 5x5 branch is two 3x3 convolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inarch.population.models.conv_factory import ConvFactory

STEM = 192
MODULES = (
    # filters by branch: 1x1; 1x1, 3x3; 1x1, 5x5; 1x1 after pooling. Then: whether max pooling precedes the module.
    (64, 96, 128, 16, 32, 32, False),
    (128, 128, 192, 32, 96, 64, False),
    (192, 96, 208, 16, 48, 64, True),
    (160, 112, 224, 24, 64, 64, False),
    (128, 128, 256, 24, 64, 64, False),
    (112, 144, 288, 32, 64, 64, False),
    (256, 160, 320, 32, 128, 128, False),
    (256, 160, 320, 32, 128, 128, True),
    (384, 192, 384, 48, 128, 128, False),
)
CONVOLUTIONS = 7
"""Convolutions in one inception module."""


class Inception(nn.Module):
    """Four parallel branches, whose outputs are concatenated."""

    def __init__(self, inputs: int, filters: tuple[int, ...], plan: ConvFactory, *, place: int) -> None:
        """Build the module.

        Args:
            inputs: Input channels.
            filters: The six filter counts of a row of MODULES.
            plan: Creates the convolutions.
            place: Place of the module's first convolution in the fusion rates.
        """
        super().__init__()
        single, reduce3, conv3, reduce5, conv5, pooled = filters
        counts = [single, reduce3, conv3, reduce5, conv5, conv5, pooled]
        widths = [plan.kept(place + index, count) for index, count in enumerate(counts)]

        def unit(index: int, channels: int, kernel: int) -> list[nn.Module]:
            conv = plan.conv(channels, counts[index], kernel, kept=widths[index], padding=kernel // 2)
            return [conv, nn.BatchNorm2d(widths[index]), nn.ReLU(inplace=True)]

        self.branch1 = nn.Sequential(*unit(0, inputs, 1))
        self.branch2 = nn.Sequential(*unit(1, inputs, 1), *unit(2, widths[1], 3))
        self.branch3 = nn.Sequential(*unit(3, inputs, 1), *unit(4, widths[3], 3), *unit(5, widths[4], 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), *unit(6, inputs, 1))
        self.outputs = widths[0] + widths[2] + widths[5] + widths[6]

    def forward(self, images: Tensor) -> Tensor:
        """Return the output of the module for a batch of images."""
        branches = (self.branch1, self.branch2, self.branch3, self.branch4)
        return torch.cat([branch(images) for branch in branches], dim=1)


class CifarGoogLeNet(nn.Module):
    """GoogLeNet for images of at least 8 pixels a side. Fusion rates: one for each convolution, in order."""

    def __init__(self, *, num_classes: int, in_channels: int = 3, plan: ConvFactory | None = None) -> None:
        """Build the model.

        Args:
            num_classes: Width of the logits.
            in_channels: Channels of the images.
            plan: Creates the convolutions. None: without fusion.

        Raises:
            ConfigError: The fusion rates do not fit the architecture.
        """
        super().__init__()
        plan = plan or ConvFactory()
        plan.check(1 + CONVOLUTIONS * len(MODULES), "googlenet")
        inputs = plan.kept(0, STEM)
        self.stem = nn.Sequential(
            plan.conv(in_channels, STEM, 3, kept=inputs, padding=1), nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)
        )
        layers: list[nn.Module] = []
        for index, (*filters, is_pooled) in enumerate(MODULES):
            if is_pooled:
                layers.append(nn.MaxPool2d(3, stride=2, padding=1))
            module = Inception(inputs, tuple(filters), plan, place=1 + CONVOLUTIONS * index)
            layers.append(module)
            inputs = module.outputs
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(inputs, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (batch, num_classes) for images (batch, channels, height, width)."""
        return self.linear(self.layers(self.stem(images)).mean(dim=(2, 3)))
