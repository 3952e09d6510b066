"""Stand-in data for trying a network before a run starts: random images of the shape that the run's images have."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np

from inarch.population.config import DataConfig, RunConfig, height_and_width
from inarch.population.data import image_set, memory_splits, open_images
from inarch.population.data.loading import streams
from inarch.population.data.reading.decoding import resized
from inarch.population.data.reading.encoded_images import EncodedImages
from inarch.population.data.reading.images import ImageSet
from inarch.population.data.splits import STREAMED_SIZE
from inarch.population.errors import DataError, UnreadableImageError
from inarch.population.models import ModelFactory
from inarch.population.tasks.image_classification import ImageClassification

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


def stand_in_task(config: RunConfig, factory: ModelFactory | None, shape: DataShape) -> ImageClassification:
    """Return a run's task, bound to random images on the CPU.

    Args:
        config: Configuration of the run.
        factory: Model factory. None: the model of config.model.
        shape: Number and shape of the training images.

    Raises:
        ConfigError, UserCodeError: As `ImageClassification`.
    """
    num_random = min(shape.num_images, config.schedule.batch_size + 1)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (max(2, num_random), *shape.image_shape), dtype=np.uint8)
    labels = np.arange(len(pixels)) % shape.num_classes
    plain = dataclasses.replace(config.data, augmentation="none", validation=0.0, validation_set=None, channels="auto")
    names = [str(number) for number in range(shape.num_classes)]
    splits = memory_splits(image_set(pixels, labels, class_names=names), None, plain, seed=0)
    device = dataclasses.replace(config.device, compile=False)
    data = dataclasses.replace(plain, validation=config.data.validation, query=None)
    plain_config = dataclasses.replace(config, data=data, device=device, task="classification")
    return ImageClassification(plain_config, splits, factory=factory, begins_trained=False)
