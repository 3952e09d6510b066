"""The three parts of a data set: training, validation (held out of training), test."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from population.config import DataConfig
from population.data.batches import Batches, MemoryBatches
from population.data.images import Array, ImageSet, check_classes, check_labels, held_out
from population.data.sources import CIFAR, EncodedImages, decode_all, open_images, resized
from population.data.streams import StreamBatches
from population.errors import DataError

BOTH_IN_ONE = frozenset({"digits", *CIFAR})
"""Names that stand for training and test images alike."""


@dataclass(frozen=True, kw_only=True)
class MemorySplits:
    """Decoded images: what goes into the object store once."""

    train: ImageSet
    validation: ImageSet | None
    test: ImageSet | None
    mean: Array
    """Of the training images' channels."""
    deviation: Array
    """Of the training images' channels."""
    fingerprint: str
    """Tells one data set and split from another."""

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        parts = (self.train, self.validation, self.test)
        return sum(part.images.nbytes for part in parts if part is not None)

    @property
    def num_classes(self) -> int:
        return self.train.num_classes

    @property
    def in_channels(self) -> int:
        return self.train.shape[0]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.train.shape

    def batches(self, part: str, device: torch.device | str) -> Batches | None:
        """The batches of train, validation or test on a device; None where that part is empty."""
        images = getattr(self, part)
        return (
            None if images is None else MemoryBatches(images, mean=self.mean, deviation=self.deviation, device=device)
        )


@dataclass(frozen=True, kw_only=True)
class StreamSplits:
    """Images that each network decodes as it goes."""

    config: DataConfig
    train: EncodedImages
    train_indices: Array
    validation_indices: Array
    test: EncodedImages | None
    fingerprint: str
    """Tells one list of labels and split from another; pixels are not read for it."""

    @property
    def num_classes(self) -> int:
        return len(self.train.class_names)

    @property
    def in_channels(self) -> int:
        return 3

    @property
    def image_shape(self) -> tuple[int, int, int]:
        size = self.config.image_size or 224
        return 3, size, size

    def batches(self, part: str, device: torch.device | str) -> Batches | None:
        """The batches of train, validation or test on a device; None where that part is empty."""
        if part == "test":
            images, indices = self.test, np.arange(len(self.test.labels)) if self.test else None
        else:
            images, indices = self.train, self.train_indices if part == "train" else self.validation_indices
        if images is None or indices is None or len(indices) == 0:
            return None
        size = self.config.image_size or 224
        return StreamBatches(images, indices, image_size=size, workers=self.config.workers, device=device)


Splits = MemorySplits | StreamSplits


def load_splits(config: DataConfig, *, seed: int) -> Splits:
    """Read a data set and hold out its validation images.

    Args:
        config: Where it lies, what is held out, whether it is decoded at once.
        seed: Decides which images are held out.

    Raises:
        DataError: it cannot be read, labels are out of range, or there is one class only.
    """
    train = open_images(config.train, split="train")
    source = config.test or (config.train if config.train in BOTH_IN_ONE or _is_cifar(train, config) else None)
    test = open_images(source, split="test") if source else None
    if test is not None:
        check_labels(test.labels, len(train.class_names), name=f"data.test {source}")
    if (
        isinstance(train, EncodedImages)
        and (test is None or isinstance(test, EncodedImages))
        and _streams(train, config)
    ):
        return _stream_splits(train, test, config, seed=seed)
    return memory_splits(_decoded(train, config), None if test is None else _decoded(test, config), config, seed=seed)


def memory_splits(train: ImageSet, test: ImageSet | None, config: DataConfig, *, seed: int) -> MemorySplits:
    """Splits of images that are decoded already; checks as `load_splits`."""
    check_classes(train.labels, train.class_names)
    if test is not None and test.shape != train.shape:
        raise DataError(f"test images are {test.shape}, training images {train.shape} (channels, height, width)")
    held_mask = held_out(train.labels, config.validation, seed=seed)
    kept = train.select(np.flatnonzero(~held_mask)) if held_mask.any() else train
    held = train.select(np.flatnonzero(held_mask)) if held_mask.any() else None
    mean, deviation = kept.statistics()
    parts = [part.fingerprint() for part in (kept, held, test) if part is not None]
    fingerprint = hashlib.sha256("".join(parts).encode()).hexdigest()
    return MemorySplits(train=kept, validation=held, test=test, mean=mean, deviation=deviation, fingerprint=fingerprint)


def _is_cifar(train: ImageSet | EncodedImages, config: DataConfig) -> bool:
    """A folder in torchvision's CIFAR format holds the test images too."""
    return isinstance(train, ImageSet) and not config.train.endswith(".arrow")


def _streams(train: EncodedImages, config: DataConfig) -> bool:
    if config.stream != "auto":
        return config.stream == "always"
    if config.image_size is None and config.augmentation == "imagenet":
        return True
    width, height = resized(train.read(0), config.image_size).size
    return 3 * width * height * len(train.labels) > config.memory_gib * 2**30


def _decoded(images: ImageSet | EncodedImages, config: DataConfig) -> ImageSet:
    return images if isinstance(images, ImageSet) else decode_all(images, image_size=config.image_size)


def _stream_splits(train: EncodedImages, test: EncodedImages | None, config: DataConfig, *, seed: int) -> StreamSplits:
    check_classes(train.labels, train.class_names)
    held = held_out(train.labels, config.validation, seed=seed)
    indices = np.arange(len(train.labels))
    digest = hashlib.sha256(repr((train.class_names, config.validation, seed)).encode())
    digest.update(np.ascontiguousarray(train.labels).data)
    return StreamSplits(
        config=config,
        train=train,
        train_indices=indices[~held],
        validation_indices=indices[held],
        test=test,
        fingerprint=digest.hexdigest(),
    )
