"""Batches of images that do not fit in memory: decoded by loader workers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from population.config import ImageSize, height_and_width
from population.data.batches import Batch, Pass
from population.data.sources import EncodedImages

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
"""Of ImageNet's channels, in [0, 1]."""

WINDOW_GROUPS = 8
"""Parquet row groups shuffled together: reading stays sequential, order does not repeat."""

LOADER_SECONDS = 120.0
"""A batch that the loader's workers do not deliver in this time is an error."""


class StreamBatches:
    """Batches of encoded images."""

    def __init__(
        self,
        images: EncodedImages,
        indices: np.ndarray,
        *,
        image_size: ImageSize,
        resizes: bool,
        workers: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """Args: images; indices of those that belong to this split; pixels; whether training crops have random sizes
        and shapes, and the others a margin, as for ImageNet; loader processes; device."""
        self._images, self._indices = images, indices
        self._size, self._resizes, self._workers = image_size, resizes, workers
        self._device = torch.device(device)

    def __len__(self) -> int:
        return len(self._indices)

    def epoch(self, wanted: Pass) -> Iterator[Batch]:
        order = self._shuffled(wanted.order_seed, wanted.epoch)[wanted.first * wanted.batch_size :]
        steps: list[nn.Module] = [v2.RandomResizedCrop(self._size, antialias=True)] if self._resizes else self._whole()
        if wanted.padding:
            steps.append(v2.RandomCrop(height_and_width(self._size), padding=wanted.padding))
        if wanted.mirror:
            steps.append(v2.RandomHorizontalFlip(0.5))
        train = v2.Compose(steps)
        yield from self._load(order, wanted.batch_size, transform=train, seed=wanted.augment_seed + wanted.epoch)

    def in_order(self, *, batch_size: int) -> Iterator[Batch]:
        """Each image scaled without chance."""
        yield from self._load(self._indices, batch_size, transform=v2.Compose(self._whole()), seed=0)

    def _whole(self) -> list[nn.Module]:
        """To the size and the center cut out, with a margin of a seventh as for ImageNet; to height and width as a
        whole where both are given."""
        if isinstance(self._size, int):
            scaled = self._size * 8 // 7 if self._resizes else self._size
            return [v2.Resize(scaled, antialias=True), v2.CenterCrop(self._size)]
        return [v2.Resize(self._size, antialias=True)]

    def _shuffled(self, seed: int, epoch: int) -> np.ndarray:
        random = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, epoch]))
        groups = self._images.groups[self._indices]
        shuffled = random.permutation(np.unique(groups))
        rank = np.empty(int(groups.max()) + 1, dtype=np.int64)
        rank[shuffled] = np.arange(len(shuffled)) // (WINDOW_GROUPS if len(shuffled) < len(groups) else len(shuffled))
        return self._indices[np.lexsort((random.random(len(groups)), rank[groups]))]

    def _load(self, order: np.ndarray, batch_size: int, *, transform: v2.Compose, seed: int) -> Iterator[Batch]:
        if len(order) == 0:
            return
        loader = DataLoader(
            _Decoded(self._images, order, transform, seed),
            batch_size=batch_size,
            num_workers=self._workers,
            timeout=LOADER_SECONDS if self._workers else 0,
            pin_memory=self._device.type == "cuda",
            generator=torch.Generator().manual_seed(0),
        )
        for pixels, labels in loader:
            yield pixels.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)


class _Decoded(Dataset):
    """Decodes and transforms; an image's random choices follow from the seed and its number alone, whoever loads it."""

    def __init__(self, images: EncodedImages, order: np.ndarray, transform: v2.Compose, seed: int) -> None:
        self._images, self._order, self._transform, self._seed = images, order, transform, seed
        self._finish = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, DEVIATION)])

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        index = int(self._order[place])
        picture = self._images.read(index).convert("RGB")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((self._seed * 1_000_003 + index) % 2**63)
            picture = self._transform(picture)
        return self._finish(picture), int(self._images.labels[index])
