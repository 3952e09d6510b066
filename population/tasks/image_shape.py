"""The shape of a run's training images, found without reading all of them and without torch."""

from __future__ import annotations

import contextlib
import dataclasses

from inarch.population.config import DataConfig, RunConfig, height_and_width
from inarch.population.data import open_images
from inarch.population.data.reading.decoding import resized
from inarch.population.data.reading.encoded_images import EncodedImages
from inarch.population.data.reading.images import ImageSet
from inarch.population.data.streaming import STREAMED_SIZE, streams
from inarch.population.errors import DataError, UnreadableImageError

LOOKED_AT = 64
"""Images whose channels are inspected. If all of them are gray and there are more images, the channels stay unknown."""

KNOWN = {"cifar10": (50_000, (3, 32, 32), 10), "cifar100": (50_000, (3, 32, 32), 100)}
"""Number of training images, their shape and number of classes, for the data sets that are fetched by name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataShape:
    """Number and shape of a run's training images."""

    num_images: int
    """Training images, without those held out for validation."""
    image_shape: tuple[int, int, int]
    """Channels, height and width of an image as networks receive it."""
    num_classes: int
    """Number of classes."""


def data_shape(config: RunConfig) -> DataShape | None:
    """Return number, shape and classes of a run's training images. Only the labels and some images are read.

    Args:
        config: Configuration of the run.

    Returns:
        The shape, or None if all images must be read to decide between gray and RGB.

    Raises:
        DataError: The images cannot be read.
    """
    data = config.data
    if data.train in KNOWN:
        num_images, (channels, height, width), num_classes = KNOWN[data.train]
        num_channels: int | None = channels
    else:
        train = open_images(data.train, split="train", config=data)
        num_images, num_classes = len(train), len(train.class_names)
        height, width = _size_of(train, data)
        is_streamed = isinstance(train, EncodedImages) and streams(train, data)
        num_channels = 3 if is_streamed else _channels_of(train)
    if data.channels == "auto" and num_channels != 3 and data.train not in KNOWN:
        sources = {"validation": data.validation_set, "test": data.test, "query": data.query}
        for split, source in sources.items():
            if source is not None and num_channels != 3:
                split_channels = _channels_of(open_images(source, split=split, config=data))
                num_channels = split_channels if split_channels == 3 or num_channels is not None else None
    channels = {"gray": 1, "rgb": 3}.get(data.channels, num_channels)
    if channels is None:
        return None
    num_images = min(num_images, data.train_limit or num_images)
    held_out = 0 if data.validation_set is not None else round(data.validation * num_images)
    return DataShape(num_images=num_images - held_out, image_shape=(channels, height, width), num_classes=num_classes)


def _size_of(train: ImageSet | EncodedImages, data: DataConfig) -> tuple[int, int]:
    """Return height and width of the images that networks receive."""
    if isinstance(train, ImageSet):
        return train.shape[1], train.shape[2]
    if streams(train, data):
        return height_and_width(data.image_size or STREAMED_SIZE)
    for index in range(min(len(train), data.skip_unreadable + 1)):
        try:
            picture = resized(train.read(index), data.image_size)
        except UnreadableImageError:
            if index == data.skip_unreadable:
                raise
            continue
        return picture.height, picture.width
    raise DataError(f"{train.name} has no image that can be read")


def _channels_of(images: ImageSet | EncodedImages) -> int | None:
    """Return 1 or 3, or None if all inspected images are gray and there are more images."""
    if isinstance(images, ImageSet):
        return images.shape[0]
    for index in range(min(len(images), LOOKED_AT)):
        with contextlib.suppress(UnreadableImageError):
            if images.read(index).mode != "L":
                return 3
    return 1 if len(images) <= LOOKED_AT else None
