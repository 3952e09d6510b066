"""Deliver batches of images in memory: shuffled by the network's own seed, augmented, normalized, on its device."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from inarch.population.config import ScheduleConfig
from inarch.population.data.augmentation import crop_flip, crop_flip_on_device, draw, normalize
from inarch.population.data.reading.images import ImageSet
from inarch.population.data.regularization import Regularization, Regularizer

Batch = tuple[Tensor, Tensor]
"""Images (batch, channels, height, width) float32 and labels (batch,) int64, both on the network's device. Labels of
mixed images are shares of the classes: (batch, classes) float32."""


RESIDENT_BYTES = 1 << 30
"""Most bytes of images that lie in a GPU's memory. CIFAR has 153 MB. Batches are then chosen there."""

UPLOAD_BYTES = 1 << 26
"""Bytes of images that are copied to a GPU at a time."""


@dataclass(frozen=True, kw_only=True)
class EpochSpec:
    """Description of one pass over the training images. Their order and augmentation are a pure function of it."""

    epoch: int
    """Number of the pass, from 0."""
    order_seed: int
    """Seed of the order."""
    augment_seed: int
    """Seed of the random crops and mirrors."""
    batch_size: int
    """Images in a batch. The last batch may have fewer."""
    steps: int | None = None
    """Batches of the pass. None: as many as use all images."""
    first: int = 0
    """Number of the first batch delivered, from 0. It is above 0 to resume within a pass."""
    padding: int = 0
    """Greatest shift of a random crop, in pixels. 0: no crop."""
    mirror: bool = False
    """Whether to mirror each image with probability 0.5."""
    regularization: Regularization | None = None
    """How batches are mixed and erased. None: not at all."""

    def regularizer(self, steps: int, device: torch.device) -> Regularizer | None:
        """Return what mixes and erases the batches of the pass, or None if nothing does.

        Args:
            steps: Batches of the pass.
            device: Device of the batches.
        """
        if self.regularization is None:
            return None
        return Regularizer(self.regularization, epoch=self.epoch, steps=steps, device=device)


class Batches(Protocol):
    """Protocol of one split's images, delivered batch by batch."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def epoch(self, spec: EpochSpec) -> Iterator[Batch]:
        """Yield the batches of one training pass, shuffled and augmented.

        Args:
            spec: Description of the pass.
        """
        ...

    def in_order(self, *, batch_size: int) -> Iterator[Batch]:
        """Yield all images once for evaluation, in order and without augmentation.

        Args:
            batch_size: Images in a batch. The last batch may have fewer.
        """
        ...

    def close(self) -> None:
        """End the processes that make the batches. A later pass starts them again."""
        ...


class MemoryBatches:
    """Batches of an ImageSet."""

    def __init__(
        self, images: ImageSet, *, mean: np.ndarray, deviation: np.ndarray, device: torch.device | str = "cpu"
    ) -> None:
        """Copy the statistics to the device. The images stay in host memory, shared and uncopied.

        Images of at most `RESIDENT_BYTES` are copied to a GPU with the first batch.

        Args:
            images: The images. Only read.
            mean: Mean of each channel in the scale of the pixels, shape (channels,).
            deviation: Standard deviation of each channel in the same scale, shape (channels,).
            device: Device of the batches.
        """
        self._set = images
        self._device = torch.device(device)
        self._mean = torch.tensor(mean, device=self._device)
        self._deviation = torch.tensor(deviation, device=self._device)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._set)

    def epoch(self, spec: EpochSpec) -> Iterator[Batch]:
        """Yield the batches of one training pass, shuffled, cropped, mirrored, normalized and regularized.

        Args:
            spec: Description of the pass.

        Yields:
            Batches on the device.
        """
        random = np.random.Generator(np.random.Philox(key=spec.order_seed, counter=[0, 0, 0, spec.epoch]))
        order, size, padding = random.permutation(len(self)), spec.batch_size, spec.padding
        steps = spec.steps or -(-len(self) // size)
        regularizer = spec.regularizer(steps, self._device)
        for index in range(spec.first, steps):
            chosen = order[index * size : (index + 1) * size]
            step = spec.epoch * steps + index
            draws = draw(len(chosen), padding=padding, mirror=spec.mirror, seed=spec.augment_seed, step=step)
            if self._device.type == "cpu":
                pixels = torch.from_numpy(crop_flip(self._set.images, chosen, draws, padding=padding))
                labels = torch.from_numpy(self._set.labels[chosen])
            else:
                numbers = self._upload(np.stack([chosen, draws.top, draws.left, draws.mirrored]).astype(np.int64))
                pixels, labels = self._chosen(chosen, numbers[0])
                if padding or spec.mirror:
                    pixels = crop_flip_on_device(pixels, numbers[1:], padding=padding)
            if regularizer is None:
                yield normalize(pixels, self._mean, self._deviation), labels
            else:
                yield regularizer.finish(pixels, labels, mean=self._mean, deviation=self._deviation, index=index)

    @functools.cached_property
    def _resident(self) -> Batch | None:
        """Images and labels on the GPU. None if they are too many, or on a CPU."""
        if self._device.type == "cpu" or self._set.images.nbytes > RESIDENT_BYTES:
            return None
        return _uploaded(self._set.images, self._device), _uploaded(self._set.labels, self._device)

    def _chosen(self, places: np.ndarray, uploaded_places: Tensor) -> Batch:
        """Return images and labels on the GPU, not augmented."""
        if self._resident is None:
            return self._upload(self._set.images[places]), self._upload(self._set.labels[places])
        images, labels = self._resident
        return images[uploaded_places], labels[uploaded_places]

    def in_order(self, *, batch_size: int) -> Iterator[Batch]:
        """Yield all images once, in order and normalized.

        Args:
            batch_size: Images in a batch. The last batch may have fewer.

        Yields:
            Batches on the device.
        """
        for start in range(0, len(self), batch_size):
            stop = min(start + batch_size, len(self))
            if self._resident is not None:
                pixels, labels = (tensor[start:stop] for tensor in self._resident)
            else:
                pixels = self._upload(self._set.images[start:stop].copy())
                labels = self._upload(self._set.labels[start:stop].copy())
            yield normalize(pixels, self._mean, self._deviation), labels

    def close(self) -> None:
        """Do nothing, because no process makes the batches."""

    def _upload(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self._device.type == "cpu" else tensor.pin_memory().to(self._device, non_blocking=True)


def _uploaded(array: np.ndarray, device: torch.device) -> Tensor:
    """Return a copy of an array on a GPU. Only a part of it is copied within host memory at a time."""
    empty = torch.from_numpy(array[:0].copy())
    uploaded = torch.empty(array.shape, dtype=empty.dtype, device=device)
    rows = max(1, UPLOAD_BYTES * len(array) // max(1, array.nbytes))
    for start in range(0, len(array), rows):
        uploaded[start : start + rows].copy_(torch.from_numpy(array[start : start + rows].copy()))
    return uploaded


def epoch_batches(num_images: int, config: ScheduleConfig) -> tuple[int, ...]:
    """Return the sizes of the first and last batch of an epoch, or a single size if the epoch has one batch.

    Args:
        num_images: Training images, at least 1.
        config: Batch size, and the rule for dropping a smaller last batch.
    """
    steps = epoch_steps(num_images, config)
    last = min(config.batch_size, num_images - (steps - 1) * config.batch_size)
    return (last,) if steps == 1 else (config.batch_size, last)


def epoch_steps(num_images: int, config: ScheduleConfig) -> int:
    """Return the number of batches in an epoch, at least 1.

    Args:
        num_images: Training images, at least 1.
        config: Batch size, and the rule for dropping a smaller last batch.
    """
    full, rest = divmod(num_images, config.batch_size)
    is_dropped = config.drop_last == "on" or (config.drop_last == "auto" and rest == 1 and config.batch_size > 1)
    return full if full and (rest == 0 or is_dropped) else full + 1
