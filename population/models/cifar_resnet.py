"""ResNets for small images: three stages of basic blocks, with shortcuts that have no parameters.

Source: He et al. 2016 (arXiv:1512.03385), section 4.2, option A. Leaky ReLU is as in the comparison of Meng et al. 2020
(arXiv:2001.05868).
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from inarch.population.models.conv_factory import ConvFactory

STAGE_CHANNELS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, which strides and pads channels with zeros where the shape changes."""

    def __init__(
        self, widths: tuple[int, int, int], filters: int, *, stride: int, slope: float, plan: ConvFactory
    ) -> None:
        """Build the block.

        Args:
            widths: Input channels, output channels of the first convolution, and output channels of the second
                convolution and of the block.
            filters: Filters of each convolution before fusion.
            stride: Stride of the first convolution.
            slope: Slope of the activation for negative values. 0 is ReLU.
            plan: Creates the convolutions.
        """
        super().__init__()
        inputs, hidden, outputs = widths
        self.conv1 = plan.conv(inputs, filters, 3, kept=hidden, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = plan.conv(hidden, filters, 3, kept=outputs, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.added = outputs - inputs
        self.slope = slope

    def forward(self, images: Tensor) -> Tensor:
        """Return the output of the module for a batch of images."""
        hidden = _activate(self.bn1(self.conv1(images)), self.slope)
        hidden = self.bn2(self.conv2(hidden))
        if self.stride != 1 or self.added:
            # The same values as images[:, :, ::stride, ::stride], whose gradient would not be channels_last. With mixed
            # layouts a training step of ResNet-8 takes a fifth more time on a CPU.
            images = F.avg_pool2d(images, 1, self.stride)
            images = F.pad(images, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        return _activate(hidden + images, self.slope)


class CifarResNet(nn.Module):
    """A ResNet for images of at least 8 pixels a side.

    Fusion rates: one for the first convolution of each block, then one for the outputs of each of the three stages. The
    stem shares the rate of the first stage.
    """

    def __init__(
        self,
        depth: int,
        *,
        num_classes: int,
        in_channels: int = 3,
        leaky: bool = False,
        plan: ConvFactory | None = None,
    ) -> None:
        """Build the model.

        Args:
            depth: 6n + 2, with n at least 1.
            num_classes: Width of the logits.
            in_channels: Channels of the images.
            leaky: Use leaky ReLU with slope 0.01 in place of ReLU.
            plan: Creates the convolutions. None: without fusion.

        Raises:
            ValueError: The depth is not 6n + 2.
            ConfigError: The fusion rates do not fit the architecture.
        """
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6n + 2 with n at least 1, got {depth}")
        self.slope = 0.01 if leaky else 0.0
        blocks, plan = (depth - 2) // 6, plan or ConvFactory()
        plan.check(3 * blocks + 3, f"resnet{depth}")
        widths = [plan.kept(3 * blocks + stage, filters) for stage, filters in enumerate(STAGE_CHANNELS)]
        self.conv1 = plan.conv(in_channels, STAGE_CHANNELS[0], 3, kept=widths[0], padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages, inputs = [], widths[0]
        for stage, filters in enumerate(STAGE_CHANNELS):
            row = []
            for index in range(blocks):
                hidden = plan.kept(stage * blocks + index, filters)
                stride = 2 if stage and not index else 1
                row.append(
                    BasicBlock(
                        (inputs, hidden, widths[stage]),
                        filters,
                        stride=stride,
                        slope=self.slope,
                        plan=plan,
                    )
                )
                inputs = widths[stage]
            stages.append(nn.Sequential(*row))
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (batch, num_classes) for images (batch, channels, height, width)."""
        hidden = _activate(self.bn1(self.conv1(images)), self.slope)
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        return self.linear(hidden.mean(dim=(2, 3)))


def _activate(hidden: Tensor, slope: float) -> Tensor:
    return F.leaky_relu(hidden, slope, inplace=True) if slope else F.relu(hidden, inplace=True)


resnet8 = partial(CifarResNet, 8)
resnet14 = partial(CifarResNet, 14)
resnet20 = partial(CifarResNet, 20)
resnet32 = partial(CifarResNet, 32)
resnet44 = partial(CifarResNet, 44)
resnet56 = partial(CifarResNet, 56)
resnet110 = partial(CifarResNet, 110)
