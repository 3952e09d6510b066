"""Deliver batches of images that do not fit in memory. Loader workers decode them as they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from inarch.population.config import ImageSize, height_and_width
from inarch.population.data.memory_batches import Batch, EpochSpec
from inarch.population.data.reading.decoding import center, margin, resized, with_channels
from inarch.population.data.reading.encoded_images import EncodedImages
from inarch.population.errors import UnreadableImageError

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's channels, for values in [0, 1]."""

GRAY_MEAN, GRAY_DEVIATION = (0.449,), (0.226,)
"""Averages of the three channels' values above, for gray images."""

WINDOW_GROUPS = 8
"""Parquet row groups that are shuffled together. Reading stays sequential, and the order does not repeat."""

LOADER_SECONDS = 120.0
"""Seconds that loader workers have to deliver a batch. The loader raises an error after that."""


def stream_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation that normalize streamed images, with white as 1.

    Args:
        channels: 1 (gray) or 3 (RGB).

    Returns:
        Two tuples with one value for each channel.
    """
    return (MEAN, DEVIATION) if channels == 3 else (GRAY_MEAN, GRAY_DEVIATION)


@dataclass(frozen=True, kw_only=True)
class DecodingSpec:
    """How encoded images are decoded and cropped."""

    image_size: ImageSize
    """Pixels a side, or height and width, as in data.image_size."""
    channels: int = 3
    """1 (gray) or 3 (RGB)."""
    has_margin: bool
    """Whether to crop as usual for ImageNet: training crops of random size and shape, and evaluation crops with a
    margin."""


class StreamBatches:
    """Batches of encoded images, decoded by loader workers."""

    def __init__(
        self,
        images: EncodedImages,
        indices: np.ndarray,
        *,
        decoding: DecodingSpec,
        workers: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """Store the settings. Loader processes start with each pass.

        Args:
            images: Images of a data set.
            indices: Numbers of the images that belong to this part, shape (indices,).
            decoding: How the images are decoded.
            workers: Loader processes. With 0, this process decodes.
            device: Device of the batches.
        """
        self._images, self._indices = images, indices
        self._size, self._channels, self._resizes = decoding.image_size, decoding.channels, decoding.has_margin
        self._workers = workers
        self._device = torch.device(device)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._indices)

    def epoch(self, spec: EpochSpec) -> Iterator[Batch]:
        """Yield the batches of one training pass, shuffled, augmented and normalized.

        Args:
            spec: Description of the pass.

        Yields:
            Batches on the device.

        Raises:
            UnreadableImageError: An image of a batch cannot be read.
        """
        from torchvision.transforms import v2  # its import takes as long as that of torch

        end = len(self) if spec.steps is None else spec.steps * spec.batch_size
        order = self._shuffled(spec.order_seed, spec.epoch)[spec.first * spec.batch_size : end]
        steps: list[nn.Module] = (
            [v2.RandomResizedCrop(self._size, antialias=True)] if self._resizes else [self._whole()]
        )
        if spec.padding:
            steps.append(v2.RandomCrop(height_and_width(self._size), padding=spec.padding))
        if spec.mirror:
            steps.append(v2.RandomHorizontalFlip(0.5))
        train = v2.Compose(steps)
        yield from self._load(order, spec.batch_size, transform=train, seed=spec.augment_seed + spec.epoch)

    def in_order(self, *, batch_size: int) -> Iterator[Batch]:
        """Yield all images once, in order, resized and normalized.

        Args:
            batch_size: Images in a batch. The last batch may have fewer.

        Yields:
            Batches on the device.

        Raises:
            UnreadableImageError: An image of a batch cannot be read.
        """
        from torchvision.transforms import v2  # its import takes as long as that of torch

        yield from self._load(self._indices, batch_size, transform=v2.Compose([self._whole()]), seed=0)

    def _whole(self) -> nn.Module:
        """Return the transform that resizes an image without random choices."""
        return _Whole(self._size, has_margin=self._resizes)

    def _shuffled(self, seed: int, epoch: int) -> np.ndarray:
        """Return the indices in the random order of an epoch, window by window of row groups."""
        random = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, epoch]))
        groups = self._images.groups[self._indices]
        shuffled = random.permutation(np.unique(groups))
        rank = np.empty(int(groups.max()) + 1, dtype=np.int64)
        rank[shuffled] = np.arange(len(shuffled)) // (WINDOW_GROUPS if len(shuffled) < len(groups) else len(shuffled))
        return self._indices[np.lexsort((random.random(len(groups)), rank[groups]))]

    def _load(self, order: np.ndarray, batch_size: int, *, transform: nn.Module, seed: int) -> Iterator[Batch]:
        if len(order) == 0:
            return
        loader = DataLoader(
            _Decoded(self._images, order, transform, seed, channels=self._channels),
            batch_size=batch_size,
            num_workers=self._workers,
            timeout=LOADER_SECONDS if self._workers else 0,
            pin_memory=self._device.type == "cuda",
            generator=torch.Generator().manual_seed(0),
            collate_fn=_collated,
        )
        for batch in loader:
            if isinstance(batch, str):
                raise UnreadableImageError(batch)
            pixels, labels = batch
            yield pixels.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)


class _Whole(nn.Module):
    """Transform that resizes pictures for evaluation. Without a margin, it resizes as decoding into memory does."""

    def __init__(self, size: ImageSize, *, has_margin: bool) -> None:
        super().__init__()
        self._size, self._has_margin = size, has_margin

    def forward(self, picture: Image.Image) -> Image.Image:
        if self._has_margin and isinstance(self._size, int):
            return center(resized(picture, margin(self._size)), self._size)
        return resized(picture, self._size)


class _Decoded(Dataset[Any]):
    """Dataset that decodes and transforms images.

    The random choices of an image depend only on the seed and the image's number, not on the worker that loads it. An
    unreadable image becomes its error message, because an exception in a worker would bury it in a traceback.
    """

    def __init__(
        self, images: EncodedImages, order: np.ndarray, transform: nn.Module, seed: int, *, channels: int
    ) -> None:
        from torchvision.transforms import v2  # its import takes as long as that of torch

        self._images, self._order, self._transform, self._seed = images, order, transform, seed
        self._mode = "gray" if channels == 1 else "rgb"
        mean, deviation = stream_statistics(channels)
        self._finish = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, deviation)])

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int] | str:
        index = int(self._order[place])
        try:
            picture = with_channels(self._images.read(index), self._mode)
        except UnreadableImageError as error:
            return str(error)
        # torch.manual_seed would seed the GPUs too, whose random numbers belong to the network.
        generator = torch.default_generator
        before = generator.get_state()
        generator.manual_seed((self._seed * 1_000_003 + index) % 2**63)
        try:
            picture = self._transform(picture)
        finally:
            generator.set_state(before)
        return self._finish(picture), int(self._images.labels[index])


def _collated(items: list[tuple[torch.Tensor, int] | str]) -> tuple[torch.Tensor, torch.Tensor] | str:
    """Return a batch, or the message about its first unreadable image."""
    readable = [item for item in items if not isinstance(item, str)]
    if len(readable) < len(items):
        return next(item for item in items if isinstance(item, str))
    return torch.stack([pixels for pixels, _ in readable]), torch.tensor([label for _, label in readable])
