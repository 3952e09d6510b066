"""Load the images of one part for one network: its workers, its cache, and the pass that has begun."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from inarch.population.data.loader.crops import Augmentation, DecodingSpec
from inarch.population.data.loader.decoded_cache import CachedImages, SharedCache
from inarch.population.data.loader.order import shuffled_order
from inarch.population.data.loader.processes import BatchLoader
from inarch.population.data.loader.requests import BatchRequest, RequestMaker
from inarch.population.data.loader.worker import BatchMaker, max_pixels
from inarch.population.data.memory_batches import EpochSpec
from inarch.population.data.reading.encoded_images import EncodedImages


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """How a part of the images is loaded."""

    workers: int
    """Loader processes. With 0, the process that trains decodes."""
    window: int
    """Images that are shuffled together, as in data.shuffle_window."""
    is_cached: bool = False
    """Whether the networks of a node share decoded images."""
    cache_folder: str | None = None
    """Folder of the decoded images, as in data.cache_folder."""


@dataclass(kw_only=True)
class _Pass:
    """A pass over the images that has begun. A later call may continue it."""

    key: object
    """What the batches depend on, besides their place."""
    place: tuple[int, int]
    """Epoch and number of the next batch."""
    batches: Iterator[tuple[Tensor, Tensor]]


class PartLoader:
    """Loads 8-bit images and their labels, batch by batch.

    The workers make batches ahead. They are used if the next call asks for them, and dropped otherwise.
    """

    def __init__(
        self,
        images: EncodedImages,
        indices: np.ndarray,
        *,
        decoding: DecodingSpec,
        settings: LoaderSettings,
        is_training: bool,
        pin_memory: bool,
    ) -> None:
        """Open the cache, if there is one. Workers start with the first batch.

        Args:
            images: Images of a data set.
            indices: Numbers of the images that belong to this part, shape (indices,).
            decoding: How the images are decoded.
            settings: Workers, window and cache.
            is_training: Whether training images are made, and not images for evaluation.
            pin_memory: Whether batches lie in page-locked memory, for uploads to a GPU.

        Raises:
            DataError: The folder of the cache cannot be used, or its disk lacks room.
        """
        self._window = settings.window
        self._groups = None if images.groups is None else images.groups[indices]
        self._cache: SharedCache | None = None
        if settings.is_cached:
            self._cache = SharedCache(
                settings.cache_folder,
                _cache_key(images, indices, decoding, is_training=is_training),
                num_images=len(indices),
                max_pixels=max_pixels(decoding, is_training=is_training),
                channels=decoding.channels,
            )
        layout = None if self._cache is None else self._cache.layout
        self._maker = RequestMaker(images, indices, None if layout is None else CachedImages(layout))
        self._loader = BatchLoader(
            BatchMaker(images.source.reader, decoding, is_training=is_training, cache=layout),
            workers=settings.workers,
            pin_memory=pin_memory,
        )
        self._pass: _Pass | None = None

    def training_batch(self, spec: EpochSpec, number: int, steps: int) -> tuple[Tensor, Tensor]:
        """Return a batch of a training pass. After the last batch of an epoch, the workers begin the next epoch.

        Args:
            spec: Description of the pass.
            number: Number of the batch in the epoch.
            steps: Batches of the epoch.

        Returns:
            Images, uint8, shape (batch, channels, height, width), and labels, int64, on the CPU.
        """
        following = (spec.epoch, number + 1) if number + 1 < steps else (spec.epoch + 1, 0)
        return self._next(
            dataclasses.replace(spec, epoch=0, first=0, steps=steps),
            (spec.epoch, number),
            following,
            lambda: _training_requests(
                self._maker, self._groups, spec, window=self._window, number=number, steps=steps
            ),
        )

    def evaluation_batch(self, number: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """Return a batch of the images in order.

        Args:
            number: Number of the batch.
            batch_size: Images in a batch. The last batch may have fewer.

        Returns:
            As `training_batch`.
        """
        order = np.arange(number * batch_size, len(self._maker))
        return self._next(
            batch_size, (0, number), (0, number + 1), lambda: self._maker.requests(order, batch_size, None)
        )

    def close(self) -> None:
        """End the workers, and give up the cache."""
        self._pass = None
        self._loader.close()
        if self._cache is not None:
            self._cache.close()

    def _next(
        self,
        key: object,
        place: tuple[int, int],
        following: tuple[int, int],
        requests: Callable[[], Iterator[BatchRequest]],
    ) -> tuple[Tensor, Tensor]:
        """Return the batch at a place, from the present pass if it has come there, or else from a new one."""
        if self._pass is None or (self._pass.key, self._pass.place) != (key, place):
            self._pass = _Pass(key=key, place=place, batches=self._loader.begin(requests()))
        try:
            batch = next(self._pass.batches)
        except BaseException:  # the workers may be in any state
            self._pass = None
            self._loader.close()
            raise
        self._pass.place = following
        return batch


def _training_requests(
    maker: RequestMaker, groups: np.ndarray | None, spec: EpochSpec, *, window: int, number: int, steps: int
) -> Iterator[BatchRequest]:
    """Yield the requests of training from a batch of an epoch on, epoch after epoch."""
    for epoch in itertools.count(spec.epoch):
        order = shuffled_order(groups, len(maker), window=window, seed=spec.order_seed, epoch=epoch)
        first = number if epoch == spec.epoch else 0
        augmentation = Augmentation(seed=spec.augment_seed, epoch=epoch, padding=spec.padding, mirror=spec.mirror)
        yield from maker.requests(
            order[first * spec.batch_size : steps * spec.batch_size], spec.batch_size, augmentation
        )


def _cache_key(images: EncodedImages, indices: np.ndarray, decoding: DecodingSpec, *, is_training: bool) -> bytes:
    """Return a hash of the decoded images."""
    digest = hashlib.sha256(repr((images.name, decoding, is_training)).encode(errors="surrogateescape"))
    digest.update(images.source.identity())
    digest.update(np.ascontiguousarray(indices).data)
    return digest.digest()
