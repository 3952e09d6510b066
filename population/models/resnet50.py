"""ResNet-50 for images of 224 pixels a side, with the module names and weight shapes of torchvision.

Source: He et al. 2016 (arXiv:1512.03385), with the stride at the 3x3 convolution.
"""

from __future__ import annotations

from torch import Tensor, nn

from inarch.population.models.conv_factory import ConvFactory

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""For each stage: filters of a block's first two convolutions, number of blocks, stride of the first block."""

EXPANSION = 4
"""Filters of a block's last convolution, as a multiple of those of its first."""

NUM_BLOCKS = sum(blocks for _, blocks, _ in STAGES)
STEM = 64


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution, with a shortcut that `project` may give a projection."""

    def __init__(self, widths: tuple[int, int, int, int], filters: int, *, stride: int, plan: ConvFactory) -> None:
        """Build the block.

        Args:
            widths: Input channels, output channels of the first and of the second convolution, and output channels of
                the third convolution and of the block.
            filters: Filters of each of the first two convolutions before fusion.
            stride: Stride of the second convolution.
            plan: Creates the convolutions.
        """
        super().__init__()
        inputs, first, second, outputs = widths
        expanded = filters * EXPANSION
        self.conv1 = plan.conv(inputs, filters, 1, kept=first, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = plan.conv(first, filters, 3, kept=second, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(second)
        self.conv3 = plan.conv(second, expanded, 1, kept=outputs, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None

    def project(self, inputs: int, filters: int, *, outputs: int, stride: int, plan: ConvFactory) -> None:
        """Give the shortcut a projection. The arguments are those of the block."""
        conv = plan.conv(inputs, filters * EXPANSION, 1, kept=outputs, stride=stride, bias=False)
        self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, images: Tensor) -> Tensor:
        """Return the output of the module for a batch of images."""
        hidden = self.relu(self.bn1(self.conv1(images)))
        hidden = self.relu(self.bn2(self.conv2(hidden)))
        hidden = self.bn3(self.conv3(hidden))
        shortcut = images if self.downsample is None else self.downsample(images)
        return self.relu(hidden + shortcut)


class ResNet50(nn.Module):
    """ResNet-50.

    Fusion rates, in order: one for the stem, 16 for the blocks' first convolutions, 16 for their second convolutions,
    and four for the outputs of the stages.
    """

    def __init__(self, *, num_classes: int = 1000, in_channels: int = 3, plan: ConvFactory | None = None) -> None:
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
        plan.check(1 + 2 * NUM_BLOCKS + len(STAGES), "resnet50")
        inputs = plan.kept(0, STEM)
        self.conv1 = plan.conv(in_channels, STEM, 7, kept=inputs, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        stages, place = [], 1
        for stage, (filters, blocks, stage_stride) in enumerate(STAGES):
            outputs, row = plan.kept(1 + 2 * NUM_BLOCKS + stage, filters * EXPANSION), []
            for index in range(blocks):
                stride = 1 if index else stage_stride
                first, second = plan.kept(place, filters), plan.kept(place + NUM_BLOCKS, filters)
                block = Bottleneck((inputs, first, second, outputs), filters, stride=stride, plan=plan)
                if index == 0:
                    block.project(inputs, filters, outputs=outputs, stride=stride, plan=plan)
                row.append(block)
                inputs, place = outputs, place + 1
            stages.append(nn.Sequential(*row))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (batch, num_classes) for images (batch, channels, height, width)."""
        hidden = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        hidden = self.layer4(self.layer3(self.layer2(self.layer1(hidden))))
        return self.fc(self.avgpool(hidden).flatten(1))
