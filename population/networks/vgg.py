"""VGG-16 with batch norm for 32x32 images: thirteen convolutions and one linear layer.

Source: Simonyan & Zisserman 2015 (arXiv:1409.1556), configuration D, with the usual head for small images.
"""

from __future__ import annotations

from torch import Tensor, nn

CHANNELS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
"""Outputs of each convolution; 0 is a 2x2 max pooling."""


class CifarVgg16(nn.Module):
    """VGG-16 for images of 16 pixels a side and more."""

    def __init__(self, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = in_channels
        for outputs in CHANNELS:
            if outputs == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [
                nn.Conv2d(inputs, outputs, 3, padding=1),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, channels, height, width) to logits (batch, num_classes)."""
        return self.classifier(self.features(images).mean(dim=(2, 3)))
