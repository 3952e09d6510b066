"""A small convolutional network of the kind that wins speed runs on CIFAR: wide, shallow, without shortcuts."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

LOGIT_SCALE = 0.1
"""Factor of the logits, which keeps the first losses small at a high learning rate."""

WIDTHS = (64, 256, 256)
"""Channels of the three stages."""


class Stage(nn.Module):
    """Two 3x3 convolutions, the first with a pooling to half the size."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Create the stage.

        Args:
            in_channels: Channels of the input.
            out_channels: Channels of the output.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding="same", bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding="same", bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the stage's output at half the size."""
        hidden = F.gelu(self.norm1(F.max_pool2d(self.conv1(hidden), 2)))
        return F.gelu(self.norm2(self.conv2(hidden)))


class SpeedNetwork(nn.Module):
    """A 2x2 convolution without padding, three stages, a maximum over the image and a linear layer."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        """Create the network.

        Args:
            num_classes: Number of classes.
            in_channels: Channels of an image, which must be 32x32 pixels.
        """
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 24, 2, bias=True)
        self.stages = nn.Sequential(*(Stage(i, o) for i, o in zip((24, *WIDTHS), WIDTHS, strict=False)))
        self.head = nn.Linear(WIDTHS[-1], num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        hidden = self.stages(F.gelu(self.conv(images)))
        return self.head(hidden.amax((2, 3))) * LOGIT_SCALE


def speed_network(num_classes: int, in_channels: int) -> nn.Module:
    """Return the network, as `--model.architecture module:function` names it.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of an image.
    """
    return SpeedNetwork(num_classes, in_channels)
