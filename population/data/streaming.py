"""Whether images are streamed: decoded anew in each epoch, instead of once."""

from __future__ import annotations

from inarch.population.config import DataConfig
from inarch.population.data.reading.decoding import resized
from inarch.population.data.reading.encoded_images import EncodedImages
from inarch.population.errors import UnreadableImageError

STREAMED_SIZE = 224
"""Pixels a side of streamed images if data.image_size is not set."""


def streams(train: EncodedImages, config: DataConfig) -> bool:
    """Return whether images are decoded anew in each epoch, instead of once.

    With data.stream=auto, images are streamed for the augmentation imagenet, or if they would exceed data.memory_gib
    when decoded. The size of the first readable image stands for all of them.

    Args:
        train: Training images.
        config: Configuration of the data.
    """
    if config.stream != "auto":
        return config.stream == "always"
    if config.augmentation == "imagenet":
        return True
    for index in range(min(len(train), config.skip_unreadable + 1)):
        try:
            width, height = resized(train.read(index), config.image_size).size
        except UnreadableImageError:
            continue
        return 3 * width * height * len(train) > config.memory_gib * 2**30
    return False
