"""The parts of a data set: training images, validation images and test images.

Validation images are held out of the training images or have a source of their own. In retrieval the test images are
the gallery, and queries may be a further part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from inarch.population.config import DataConfig, height_and_width
from inarch.population.data.loader.crops import DecodingSpec
from inarch.population.data.loader.part_loader import LoaderSettings
from inarch.population.data.memory_batches import Batches, MemoryBatches
from inarch.population.data.reading.encoded_images import EncodedImages
from inarch.population.data.reading.images import Array, ImageSet
from inarch.population.data.report import DataReport
from inarch.population.data.streaming import STREAMED_SIZE
from inarch.population.data.streaming_batches import StreamBatches


def streamed_channels(config: DataConfig) -> int:
    """Return the number of channels of streamed images: 1 if data.channels is gray, else 3 (RGB).

    Args:
        config: Configuration of the data.
    """
    return 1 if config.channels == "gray" else 3


@dataclass(frozen=True, kw_only=True)
class MemorySplits:
    """Decoded images of a run. The driver puts them into the object store once."""

    train: ImageSet
    """Training images, without those held out."""
    validation: ImageSet | None
    """Validation images. None: there are none."""
    test: ImageSet | None
    """Test images. In retrieval they are the gallery. None: there are none."""
    query: ImageSet | None = None
    """Queries of retrieval. None: there are none of their own."""
    mean: Array
    """Mean of each channel over the training images, in the scale of their pixels, shape (channels,)."""
    deviation: Array
    """Standard deviation of each channel in the same scale, shape (channels,). A constant channel has 1."""
    fingerprint: str
    """Hash that differs between data sets and between splits of the same data set."""
    report: DataReport
    """Description of the data."""

    @property
    def nbytes(self) -> int:
        """Bytes of all images, without their labels."""
        parts = (self.train, self.validation, self.test, self.query)
        return sum(part.images.nbytes for part in parts if part is not None)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.train.num_classes

    @property
    def in_channels(self) -> int:
        """Channels of an image, 1 or 3."""
        return self.train.shape[0]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.train.shape

    def batches(self, part: str, device: torch.device | str) -> Batches | None:
        """Return the batches of a part, or None if the part is empty.

        Args:
            part: train, validation, test or query.
            device: Device of the batches.
        """
        images = getattr(self, part)
        return (
            None if images is None else MemoryBatches(images, mean=self.mean, deviation=self.deviation, device=device)
        )

    def labels(self, part: str) -> Array:
        """Return the labels of a part's images, shape (images,), int64. Empty if the part is.

        Args:
            part: train, validation, test or query.
        """
        images = getattr(self, part)
        return np.empty(0, dtype=np.int64) if images is None else images.labels

    def cameras(self, part: str) -> Array | None:
        """Return the camera of each image of a part, shape (images,), int64, or None if cameras are not known.

        Args:
            part: train, validation, test or query.
        """
        images = getattr(self, part)
        return None if images is None else images.cameras


@dataclass(frozen=True, kw_only=True)
class StreamSplits:
    """Encoded images of a run. Each network decodes them as it needs them."""

    config: DataConfig
    """Configuration of the data."""
    train: EncodedImages
    """Training images, with those held out."""
    train_indices: Array
    """Numbers of the images to train on, in `train`."""
    validation_indices: Array
    """Numbers of the images held out for validation, in `train`."""
    test: EncodedImages | None
    """Test images. In retrieval they are the gallery. None: there are none."""
    query: EncodedImages | None = None
    """Queries of retrieval. None: there are none of their own."""
    validation: EncodedImages | None = None
    """Validation images from a source of their own. None: `validation_indices` of `train`."""
    fingerprint: str
    """Hash that differs between lists of labels and between splits. It does not cover pixels."""
    report: DataReport
    """Description of the data."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.train.class_names)

    @property
    def in_channels(self) -> int:
        """Channels of an image, 1 or 3."""
        return streamed_channels(self.config)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image as networks receive it."""
        return (self.in_channels, *height_and_width(self.config.image_size or STREAMED_SIZE))

    def batches(self, part: str, device: torch.device | str) -> Batches | None:
        """Return the batches of a part, or None if the part is empty.

        Args:
            part: train, validation, test or query.
            device: Device of the batches.
        """
        images, indices = self._part(part)
        if images is None or len(indices) == 0:
            return None
        decoding = DecodingSpec(
            image_size=self.config.image_size or STREAMED_SIZE,
            channels=self.in_channels,
            has_margin=self.config.augmentation == "imagenet",
        )
        settings = LoaderSettings(
            workers=self.config.workers,
            window=self.config.shuffle_window,
            # Test images are read once, by one process.
            is_cached=self.config.cache == "on" and part in ("train", "validation"),
            cache_folder=self.config.cache_folder,
        )
        return StreamBatches(images, indices, decoding=decoding, settings=settings, device=device)

    def labels(self, part: str) -> Array:
        """Return the labels of a part's images, shape (images,), int64. Empty if the part is.

        Args:
            part: train, validation, test or query.
        """
        images, indices = self._part(part)
        return np.empty(0, dtype=np.int64) if images is None else images.labels[indices]

    def cameras(self, part: str) -> Array | None:
        """Return the camera of each image of a part, shape (images,), int64, or None if cameras are not known.

        Args:
            part: train, validation, test or query.
        """
        images, indices = self._part(part)
        return None if images is None or images.cameras is None else images.cameras[indices]

    def _part(self, part: str) -> tuple[EncodedImages | None, Array]:
        """Return the source of a part, and the numbers of its images in that source."""
        if part in ("test", "query") or (part == "validation" and self.validation is not None):
            images = {"test": self.test, "query": self.query, "validation": self.validation}[part]
            return images, np.arange(0 if images is None else len(images))
        return self.train, self.train_indices if part == "train" else self.validation_indices


Splits = MemorySplits | StreamSplits
