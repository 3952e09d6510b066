"""The parts of a data set: training, validation (held out of training), test; in retrieval the test images are the
gallery, and there may be queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from inarch.population.config import DataConfig, height_and_width
from inarch.population.data.memory_batches import Batches, MemoryBatches
from inarch.population.data.reading.encoded_images import EncodedImages
from inarch.population.data.reading.images import Array, ImageSet
from inarch.population.data.report import DataReport
from inarch.population.data.streaming_batches import StreamBatches

STREAMED_SIZE = 224
"""Pixels a side of streamed images, where data.image_size does not say."""


def streamed_channels(config: DataConfig) -> int:
    """Channels of streamed images: RGB unless data.channels is gray."""
    return 1 if config.channels == "gray" else 3


@dataclass(frozen=True, kw_only=True)
class MemorySplits:
    """Decoded images: what goes into the object store once."""

    train: ImageSet
    validation: ImageSet | None
    test: ImageSet | None
    query: ImageSet | None = None
    mean: Array
    """Of the training images' channels."""
    deviation: Array
    """Of the training images' channels."""
    fingerprint: str
    """Tells one data set and split from another."""
    report: DataReport
    """What was read."""

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        parts = (self.train, self.validation, self.test, self.query)
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
        """The batches of train, validation, test or query on a device; None where that part is empty."""
        images = getattr(self, part)
        return (
            None if images is None else MemoryBatches(images, mean=self.mean, deviation=self.deviation, device=device)
        )

    def labels(self, part: str) -> Array:
        """Of a part's images, shape (images,); empty where it has none."""
        images = getattr(self, part)
        return np.empty(0, dtype=np.int64) if images is None else images.labels

    def cameras(self, part: str) -> Array | None:
        """What took each image of a part, shape (images,); None where that is not known."""
        images = getattr(self, part)
        return None if images is None else images.cameras


@dataclass(frozen=True, kw_only=True)
class StreamSplits:
    """Images that each network decodes as it goes."""

    config: DataConfig
    train: EncodedImages
    train_indices: Array
    validation_indices: Array
    test: EncodedImages | None
    query: EncodedImages | None = None
    validation: EncodedImages | None = None
    """Validation images of their own; None: `validation_indices` of the training images."""
    fingerprint: str
    """Tells one list of labels and split from another; pixels are not read for it."""
    report: DataReport
    """What was read."""

    @property
    def num_classes(self) -> int:
        return len(self.train.class_names)

    @property
    def in_channels(self) -> int:
        return streamed_channels(self.config)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (self.in_channels, *height_and_width(self.config.image_size or STREAMED_SIZE))

    def batches(self, part: str, device: torch.device | str) -> Batches | None:
        """The batches of train, validation, test or query on a device; None where that part is empty."""
        images, indices = self._part(part)
        if images is None or len(indices) == 0:
            return None
        size = self.config.image_size or STREAMED_SIZE
        return StreamBatches(
            images,
            indices,
            image_size=size,
            channels=self.in_channels,
            resizes=self.config.augmentation == "imagenet",
            workers=self.config.workers,
            device=device,
        )

    def labels(self, part: str) -> Array:
        """Of a part's images, shape (images,); empty where it has none."""
        images, indices = self._part(part)
        return np.empty(0, dtype=np.int64) if images is None else images.labels[indices]

    def cameras(self, part: str) -> Array | None:
        """What took each image of a part, shape (images,); None where that is not known."""
        images, indices = self._part(part)
        return None if images is None or images.cameras is None else images.cameras[indices]

    def _part(self, part: str) -> tuple[EncodedImages | None, Array]:
        if part in ("test", "query") or (part == "validation" and self.validation is not None):
            images = {"test": self.test, "query": self.query, "validation": self.validation}[part]
            return images, np.arange(0 if images is None else len(images))
        return self.train, self.train_indices if part == "train" else self.validation_indices


Splits = MemorySplits | StreamSplits
