"""Batches of images in memory: shuffled by the network's own seed, augmented, normalized, on its device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from population.data.augmentation import crop_flip, crop_flip_on_device, draw, normalize
from population.data.images import ImageSet

Batch = tuple[Tensor, Tensor]
"""Images (batch, channels, height, width) float32 and labels (batch,) int64, both on the network's device."""


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

    def epoch(
        self,
        *,
        batch_size: int,
        order_seed: int,
        augment_seed: int,
        epoch: int,
        first: int,
        padding: int,
        mirror: bool,
    ) -> Iterator[Batch]:
        """The batches of one epoch from batch `first` on: a pure function of the seeds, the epoch and the place."""
        order = np.random.Generator(np.random.Philox(key=order_seed, counter=[0, 0, 0, epoch])).permutation(len(self))
        steps = -(-len(self) // batch_size)
        for index in range(first, steps):
            chosen = order[index * batch_size : (index + 1) * batch_size]
            draws = draw(len(chosen), padding=padding, mirror=mirror, seed=augment_seed, step=epoch * steps + index)
            if self._device.type == "cpu":
                pixels = torch.from_numpy(crop_flip(self._set.images, chosen, draws, padding=padding))
            else:
                pixels = self._upload(self._set.images[chosen])
                pixels = crop_flip_on_device(pixels, draws, padding=padding)
            yield normalize(pixels, self._mean, self._deviation), self._upload(self._set.labels[chosen])

    def in_order(self, *, batch_size: int) -> Iterator[Batch]:
        """All images once, in order, as they are: for evaluation."""
        for start in range(0, len(self), batch_size):
            stop = min(start + batch_size, len(self))
            pixels = self._upload(self._set.images[start:stop].copy())
            labels = self._upload(self._set.labels[start:stop].copy())
            yield normalize(pixels, self._mean, self._deviation), labels

    def _upload(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self._device.type == "cpu" else tensor.pin_memory().to(self._device, non_blocking=True)
