"""VGG-16 with batch norm for 32x32 images: thirteen convolutions and one linear layer.

Source: Simonyan & Zisserman 2015 (arXiv:1409.1556), configuration D, with the usual head for small images.
"""

from __future__ import annotations

from torch import Tensor, nn

from inarch.population.models.conv_factory import ConvFactory

CHANNELS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
"""Output channels of each convolution. 0 is a 2x2 max pooling."""


NUM_CONVOLUTIONS = sum(outputs > 0 for outputs in CHANNELS)


class CifarVgg16(nn.Module):
    """VGG-16 for images of at least 16 pixels a side. Fusion rates: one for each convolution, in order."""

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
        plan.check(NUM_CONVOLUTIONS, "vgg16")
        place = 0
        layers: list[nn.Module] = []
        inputs = in_channels
        for outputs in CHANNELS:
            if outputs == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            width = plan.kept(place, outputs)
            conv = plan.conv(inputs, outputs, 3, kept=width, padding=1)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            inputs, place = width, place + 1
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (batch, num_classes) for images (batch, channels, height, width)."""
        return self.classifier(self.features(images).mean(dim=(2, 3)))
