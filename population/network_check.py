"""Whether a network can be trained on its data: tried before anything starts, on batches as they will occur."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from population.config import RunConfig
from population.cost import network_cost
from population.data import image_set, memory_splits, open_images
from population.data.encoded import EncodedImages
from population.data.images import ImageSet
from population.data.pictures import resized, with_channels
from population.data.sources import CIFAR
from population.data.splits import STREAMED_SIZE
from population.errors import ConfigError, UnreadableImageError
from population.networks import NetworkFactory
from population.schedule import epoch_batches
from population.task import ImageClassification
from population.training import Trainer
from population.user_code import user_code

TRIAL_FLOPS = 40_000_000_000
"""Operations of the step that tries a full batch, some seconds of a laptop; more images than that are not tried."""

KNOWN = {"cifar10": (50_000, (3, 32, 32), 10), "cifar100": (50_000, (3, 32, 32), 100)}
"""Training images, their shape and classes of data sets that are fetched by name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataShape:
    """What a network needs to know of its data."""

    num_images: int
    """Training images, validation images not among them."""
    image_shape: tuple[int, int, int]
    num_classes: int


def data_shape(config: RunConfig) -> DataShape:
    """What a network needs to know of a run's data, from labels and one image.

    Raises:
        DataError: the training images cannot be read.
    """
    data = config.data
    if data.train in CIFAR:
        num_images, shape, num_classes = KNOWN[data.train]
    else:
        train = open_images(data.train, split="train", config=data)
        num_images, shape, num_classes = len(train), _shape_of(train, config), len(train.class_names)
    num_images = min(num_images, data.train_limit or num_images)
    held = 0 if data.validation_set is not None else round(data.validation * num_images)
    return DataShape(num_images=num_images - held, image_shape=shape, num_classes=num_classes)


def _shape_of(train: ImageSet | EncodedImages, config: RunConfig) -> tuple[int, int, int]:
    if isinstance(train, ImageSet):
        channels = {"gray": 1, "rgb": 3}.get(config.data.channels, train.shape[0])
        return channels, *train.shape[1:]
    is_streamed = config.data.stream == "always" or config.data.augmentation == "imagenet"
    size = config.data.image_size or (STREAMED_SIZE if is_streamed else None)
    channels = "rgb" if is_streamed and config.data.channels == "auto" else config.data.channels
    for index in range(min(len(train), config.data.skip_unreadable + 1)):
        try:
            picture = resized(with_channels(train.read(index), channels), size)
        except UnreadableImageError:
            if index == config.data.skip_unreadable:
                raise
            continue
        return 1 if picture.mode == "L" else 3, picture.height, picture.width
    raise ConfigError(f"{train.name} has no image that can be read")


def try_network(config: RunConfig, factory: NetworkFactory | None, shape: DataShape) -> None:
    """Build a run's network and try it on random images of a shape, without the data: what the driver can do before Ray
    starts.

    Raises:
        ConfigError, UserCodeError: as `check_network`.
    """
    count = min(shape.num_images, config.schedule.batch_size + 1)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (max(2, count), *shape.image_shape), dtype=np.uint8)
    labels = np.arange(len(pixels)) % shape.num_classes
    plain = dataclasses.replace(config.data, augmentation="none", validation=0.0, validation_set=None, channels="auto")
    names = [str(number) for number in range(shape.num_classes)]
    splits = memory_splits(image_set(pixels, labels, class_names=names), None, plain, seed=0)
    device = dataclasses.replace(config.device, compile=False)
    data = dataclasses.replace(plain, validation=config.data.validation)
    plain_config = dataclasses.replace(config, data=data, device=device, task="classification")
    task = ImageClassification(plain_config, splits, factory=factory, begins_trained=False)
    check_network(task, num_images=shape.num_images)
    Trainer(task, plain_config, network=0).rehearse()


def check_network(task: ImageClassification, *, num_images: int) -> None:
    """Build a task's network and try it: a step of training on a full batch and on the smallest that will occur, and an
    evaluation.

    Args:
        task: Gives the network, its batches and its loss.
        num_images: Training images, which decide how small the last batch of an epoch is.

    Raises:
        ConfigError: the network gives no logits of the right shape, or has nothing to train.
        UserCodeError: it raised; names the batch.
    """
    network = task.build(0)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError(
            "the network has no parameter to train: all are frozen (requires_grad=False), or there are none"
        )
    images, labels = next(iter(task.epoch(order_seed=0, augment_seed=0, epoch=0, first=0)))
    for size in (2, 1):
        _check_logits(_evaluated(network, images[:size]), images[:size], task)
    schedule = task.config.schedule
    smallest = epoch_batches(num_images, schedule)[-1]
    _train(task, network, images[:smallest], labels[:smallest])
    flops = max(1, network_cost(network, task.image_shape).training_flops)
    full = min(len(images), schedule.batch_size, max(2, TRIAL_FLOPS // flops))
    if full > smallest:
        _train(task, network, images[:full], labels[:full])


@torch.no_grad()
def _evaluated(network: nn.Module, images: Tensor) -> Any:
    try:
        with user_code(f"the network, evaluating images {tuple(images.shape)},"):
            return network.eval()(images)
    finally:
        network.train()


def _check_logits(logits: Any, images: Tensor, task: ImageClassification) -> None:
    expected = (len(images), task.splits.num_classes)
    if tuple(logits.shape) != expected:
        raise ConfigError(
            f"the network must map {len(images)} images {tuple(images.shape)} to logits {expected}, it gave "
            f"{tuple(logits.shape)}"
        )


def _train(task: ImageClassification, network: nn.Module, images: Tensor, labels: Tensor) -> None:
    """One step without an optimizer."""
    remedy = ""
    if len(images) == 1:
        remedy = "batch norm needs two images: schedule.drop_last=on, or another schedule.batch_size"
    network.train()
    with user_code(f"the network, training on a batch of images {tuple(images.shape)},", remedy=remedy):
        loss, _ = task.loss(network, (images, labels))
        if not loss.requires_grad:
            raise ConfigError("the loss does not depend on any parameter of the network; does it detach its output?")
        loss.backward()
    network.zero_grad(set_to_none=True)
