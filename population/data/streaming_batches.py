"""Deliver batches of images that do not fit in memory. Loader workers decode them as they are needed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from inarch.population.data.augmentation import normalize
from inarch.population.data.loader.crops import DecodingSpec
from inarch.population.data.loader.part_loader import LoaderSettings, PartLoader
from inarch.population.data.memory_batches import Batch, EpochSpec
from inarch.population.data.reading.encoded_images import EncodedImages

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's channels, for values in [0, 1]."""

GRAY_MEAN, GRAY_DEVIATION = (0.449,), (0.226,)
"""Averages of the three channels' values above, for gray images."""


def stream_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation that normalize streamed images, with white as 1.

    Args:
        channels: 1 (gray) or 3 (RGB).

    Returns:
        Two tuples with one value for each channel.
    """
    return (MEAN, DEVIATION) if channels == 3 else (GRAY_MEAN, GRAY_DEVIATION)


class StreamBatches:
    """Batches of encoded images, decoded by loader workers.

    The workers and the cache file live until `close`, or until the object is garbage-collected. Training images and
    evaluation images need an object each.
    """

    def __init__(
        self,
        images: EncodedImages,
        indices: np.ndarray,
        *,
        decoding: DecodingSpec,
        settings: LoaderSettings,
        device: torch.device | str = "cpu",
    ) -> None:
        """Store the settings. Loader processes start with the first pass.

        Args:
            images: Images of a data set.
            indices: Numbers of the images that belong to this part, shape (indices,).
            decoding: How the images are decoded.
            settings: Workers, window and cache.
            device: Device of the batches.
        """
        self._images, self._indices, self._decoding, self._settings = images, indices, decoding, settings
        self._device = torch.device(device)
        mean, deviation = (torch.tensor(values) * 255.0 for values in stream_statistics(decoding.channels))
        self._mean, self._deviation = mean.to(self._device), deviation.to(self._device)
        self._loaders: dict[bool, PartLoader] = {}

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._indices)

    def epoch(self, spec: EpochSpec) -> Iterator[Batch]:
        """Yield the batches of one training pass, shuffled, augmented, normalized and regularized.

        If the pass continues where an earlier call ended, the batches that the workers have made ahead are used.

        Args:
            spec: Description of the pass.

        Yields:
            Batches on the device.

        Raises:
            UnreadableImageError: An image of a batch cannot be read.
            DataError: The disk lacks room for the decoded images, or the storage failed.
        """
        steps = spec.steps or -(-len(self) // spec.batch_size)
        regularizer = spec.regularizer(steps, self._device)
        for number in range(spec.first, steps):
            pixels, labels = self._uploaded(self._loader(is_training=True).training_batch(spec, number, steps))
            if regularizer is None:
                yield normalize(pixels, self._mean, self._deviation), labels
            else:
                yield regularizer.finish(pixels, labels, mean=self._mean, deviation=self._deviation, index=number)

    def in_order(self, *, batch_size: int) -> Iterator[Batch]:
        """Yield all images once, in order, resized and normalized.

        Args:
            batch_size: Images in a batch. The last batch may have fewer.

        Yields:
            Batches on the device.

        Raises:
            UnreadableImageError: An image of a batch cannot be read.
            DataError: The disk lacks room for the decoded images, or the storage failed.
        """
        for number in range(-(-len(self) // batch_size)):
            pixels, labels = self._uploaded(self._loader(is_training=False).evaluation_batch(number, batch_size))
            yield normalize(pixels, self._mean, self._deviation), labels

    def close(self) -> None:
        """End the loader processes, and give up the cache. A later pass starts them again."""
        for loader in self._loaders.values():
            loader.close()
        self._loaders.clear()

    def _loader(self, *, is_training: bool) -> PartLoader:
        if is_training not in self._loaders:
            self._loaders[is_training] = PartLoader(
                self._images,
                self._indices,
                decoding=self._decoding,
                settings=self._settings,
                is_training=is_training,
                pin_memory=self._device.type == "cuda",
            )
        return self._loaders[is_training]

    def _uploaded(self, batch: Batch) -> Batch:
        """Upload images of 8 bits and their labels."""
        pixels, labels = batch
        return pixels.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)
