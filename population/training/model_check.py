"""Try a network before a run starts, on batches of the sizes that training and evaluation will have."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inarch.population.config import DataConfig, RunConfig, height_and_width
from inarch.population.data import image_set, memory_splits, open_images
from inarch.population.data.loading import streams
from inarch.population.data.memory_batches import epoch_batches
from inarch.population.data.reading.decoding import resized
from inarch.population.data.reading.encoded_images import EncodedImages
from inarch.population.data.reading.images import ImageSet
from inarch.population.data.splits import STREAMED_SIZE
from inarch.population.errors import ConfigError, DataError, UnreadableImageError
from inarch.population.extension.user_code import user_code
from inarch.population.models import ModelFactory
from inarch.population.models.complexity import model_complexity
from inarch.population.tasks.image_classification import ImageClassification
from inarch.population.training.trainer import Trainer

TRIAL_FLOPS = 40_000_000_000
"""Most floating-point operations of the trial step on a full batch: some seconds on a laptop. A batch that needs more
is tried with fewer images."""

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


def try_network(config: RunConfig, factory: ModelFactory | None, shape: DataShape) -> None:
    """Try a run's network and its exchange rule on random images. The driver does this before Ray starts.

    Args:
        config: Configuration of the run.
        factory: Model factory. None: the model of config.model.
        shape: Number and shape of the training images.

    Raises:
        ConfigError: As `check_network`, or the exchange rule needs something that the network lacks.
        UserCodeError: As `check_network`.
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
    task = ImageClassification(plain_config, splits, factory=factory, begins_trained=False)
    check_network(task, num_images=shape.num_images)
    Trainer(task, plain_config, network_id=0).dry_run_exchange()


def check_network(task: ImageClassification, *, num_images: int) -> None:
    """Build a task's network and try it: evaluate it, then train it on the smallest batch and on a full batch.

    Args:
        task: Builds the network and supplies its batches and its loss.
        num_images: Number of training images. It decides the size of the last batch of an epoch.

    Raises:
        ConfigError: The logits have a wrong shape, there is nothing to train, the loss depends on no parameter, or two
            networks share their weights.
        UserCodeError: The network raised. The message names the batch.
    """
    model = task.build(0)
    addresses = {parameter.data_ptr() for parameter in model.parameters() if parameter.numel()}
    if any(parameter.data_ptr() in addresses for parameter in task.build(1).parameters() if parameter.numel()):
        raise ConfigError(
            "the network function gives the same network, or the same weights, each time; it must make a new one"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            "the network has no parameter to train: all are frozen (requires_grad=False), or there are none"
        )
    images, labels = next(iter(task.epoch(order_seed=0, augment_seed=0, epoch=0, first=0)))
    for size in (2, 1):
        _check_logits(_evaluated(model, images[:size]), images[:size], task)
    schedule = task.config.schedule
    smallest_size = epoch_batches(num_images, schedule)[-1]
    _train(task, model, images[:smallest_size], labels[:smallest_size])
    flops = max(1, model_complexity(model, task.image_shape).training_flops)
    full_size = min(len(images), schedule.batch_size, max(2, TRIAL_FLOPS // flops))
    if full_size > smallest_size:
        _train(task, model, images[:full_size], labels[:full_size])


@torch.no_grad()
def _evaluated(model: nn.Module, images: Tensor) -> Any:
    try:
        with user_code(f"the network, evaluating images {tuple(images.shape)},"):
            return model.eval()(images)
    finally:
        model.train()


def _check_logits(logits: Any, images: Tensor, task: ImageClassification) -> None:
    expected = (len(images), task.splits.num_classes)
    if tuple(logits.shape) != expected:
        raise ConfigError(
            f"the network must map {len(images)} images {tuple(images.shape)} to logits {expected}, it gave "
            f"{tuple(logits.shape)}"
        )


def _train(task: ImageClassification, model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Compute loss and gradients of a batch, then delete the gradients."""
    remedy = ""
    if len(images) == 1:
        remedy = "batch norm needs two images: schedule.drop_last=on, or another schedule.batch_size"
    model.train()
    with user_code(f"the network, training on a batch of images {tuple(images.shape)},", remedy=remedy):
        loss, _ = task.loss(model, (images, labels))
        if not loss.requires_grad:
            raise ConfigError("the loss does not depend on any parameter of the network; does it detach its output?")
        loss.backward()
    model.zero_grad(set_to_none=True)
