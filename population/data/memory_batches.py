"""Batches of images in memory: shuffled by the network's own seed, augmented, normalized, on its device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from inarch.population.config import ScheduleConfig
from inarch.population.data.augmentation import crop_flip, crop_flip_on_device, draw, normalize
from inarch.population.data.reading.images import ImageSet

Batch = tuple[Tensor, Tensor]
"""Images (batch, channels, height, width) float32 and labels (batch,) int64, both on the network's device."""


@dataclass(frozen=True, kw_only=True)
class EpochSpec:
    """One pass over the images: their order and augmentation are a pure function of it."""

    epoch: int
    """Which pass, from 0."""
    order_seed: int
    augment_seed: int
    batch_size: int
    """Images a batch; the last may have fewer."""
    steps: int | None = None
    """Batches; None: as many as use all images."""
    first: int = 0
    """Batch to begin at."""
    padding: int = 0
    """Pixels that a crop may shift an image by; 0: no crop."""
    mirror: bool = False
    """Mirror half of the images."""


class Batches(Protocol):
    """The images of one split, batch by batch."""

    def __len__(self) -> int:
        """How many images."""
        ...

    def epoch(self, wanted: EpochSpec) -> Iterator[Batch]:
        """The batches of one pass, shuffled and augmented: for training."""
        ...

    def in_order(self, *, batch_size: int) -> Iterator[Batch]:
        """All images once, in order, as they are: for evaluation."""
        ...


class MemoryBatches:
    """Batches of one ImageSet."""

    def __init__(
        self, images: ImageSet, *, mean: np.ndarray, deviation: np.ndarray, device: torch.device | str = "cpu"
    ) -> None:
        self._set = images
        self._device = torch.device(device)
        self._mean = torch.tensor(mean, device=self._device)
        self._deviation = torch.tensor(deviation, device=self._device)

    def __len__(self) -> int:
        return len(self._set)

    def epoch(self, wanted: EpochSpec) -> Iterator[Batch]:
        """Crops within `padding` and mirrors, normalized."""
        random = np.random.Generator(np.random.Philox(key=wanted.order_seed, counter=[0, 0, 0, wanted.epoch]))
        order, size, padding = random.permutation(len(self)), wanted.batch_size, wanted.padding
        steps = wanted.steps or -(-len(self) // size)
        for index in range(wanted.first, steps):
            chosen = order[index * size : (index + 1) * size]
            step = wanted.epoch * steps + index
            draws = draw(len(chosen), padding=padding, mirror=wanted.mirror, seed=wanted.augment_seed, step=step)
            if self._device.type == "cpu":
                pixels = torch.from_numpy(crop_flip(self._set.images, chosen, draws, padding=padding))
            else:
                pixels = self._upload(self._set.images[chosen])
                pixels = crop_flip_on_device(pixels, draws, padding=padding)
            yield normalize(pixels, self._mean, self._deviation), self._upload(self._set.labels[chosen])

    def in_order(self, *, batch_size: int) -> Iterator[Batch]:
        """Normalized."""
        for start in range(0, len(self), batch_size):
            stop = min(start + batch_size, len(self))
            pixels = self._upload(self._set.images[start:stop].copy())
            labels = self._upload(self._set.labels[start:stop].copy())
            yield normalize(pixels, self._mean, self._deviation), labels

    def _upload(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self._device.type == "cpu" else tensor.pin_memory().to(self._device, non_blocking=True)


def epoch_batches(num_images: int, config: ScheduleConfig) -> tuple[int, ...]:
    """Sizes of the batches of an epoch: the first and the last of them, or all where there are at most two.

    Args:
        num_images: Training images, at least 1.
        config: Batch size, and whether a smaller last batch is left out.
    """
    steps = epoch_steps(num_images, config)
    last = min(config.batch_size, num_images - (steps - 1) * config.batch_size)
    return (last,) if steps == 1 else (config.batch_size, last)


def epoch_steps(num_images: int, config: ScheduleConfig) -> int:
    """Batches of an epoch."""
    full, rest = divmod(num_images, config.batch_size)
    is_dropped = config.drop_last == "on" or (config.drop_last == "auto" and rest == 1 and config.batch_size > 1)
    return full if full and (rest == 0 or is_dropped) else full + 1
