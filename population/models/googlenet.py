"""GoogLeNet for 32x32 images: nine inception modules with batch norm.

Source: Szegedy et al. 2015 (arXiv:1409.4842); the form for small images that DCFF compresses: a 3x3 stem of 192
filters, and the 5x5 branch as two 3x3 convolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inarch.population.models.conv_factory import ConvFactory

STEM = 192
MODULES = (
    # 1x1; 1x1, 3x3; 1x1, 5x5; 1x1 after pooling; a max pooling stands before the module
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
"""In one module."""


class Inception(nn.Module):
    """Four branches side by side."""

    def __init__(self, inputs: int, filters: tuple[int, ...], plan: ConvFactory, *, place: int) -> None:
        """Args: channels that come in; filters of the six kinds of convolutions; the plan, and the module's first
        place in it."""
        super().__init__()
        one, three_in, three, five_in, five, pooled = filters
        of = [one, three_in, three, five_in, five, five, pooled]
        kept = [plan.kept(place + index, count) for index, count in enumerate(of)]

        def unit(index: int, channels: int, kernel: int) -> list[nn.Module]:
            conv = plan.conv(channels, of[index], kernel, kept=kept[index], padding=kernel // 2)
            return [conv, nn.BatchNorm2d(kept[index]), nn.ReLU(inplace=True)]

        self.branch1 = nn.Sequential(*unit(0, inputs, 1))
        self.branch2 = nn.Sequential(*unit(1, inputs, 1), *unit(2, kept[1], 3))
        self.branch3 = nn.Sequential(*unit(3, inputs, 1), *unit(4, kept[3], 3), *unit(5, kept[4], 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), *unit(6, inputs, 1))
        self.outputs = kept[0] + kept[2] + kept[5] + kept[6]

    def forward(self, images: Tensor) -> Tensor:
        branches = (self.branch1, self.branch2, self.branch3, self.branch4)
        return torch.cat([branch(images) for branch in branches], dim=1)


class CifarGoogLeNet(nn.Module):
    """GoogLeNet for images of 8 pixels a side and more. Fusion rates: one for each convolution, in order."""

    def __init__(self, *, num_classes: int, in_channels: int = 3, plan: ConvFactory | None = None) -> None:
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
        """Images (batch, channels, height, width) to logits (batch, num_classes)."""
        return self.linear(self.layers(self.stem(images)).mean(dim=(2, 3)))
