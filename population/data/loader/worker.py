"""Make batches of 8-bit images. A loader worker reads, decodes and crops, or takes decoded images from the cache."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from inarch.population.config import height_and_width
from inarch.population.data.loader.crops import (
    DecodingSpec,
    evaluation_picture,
    random_resized_crop,
    random_shift,
    stored_area,
    stored_picture,
)
from inarch.population.data.loader.decoded_cache import CachedImages, CacheLayout
from inarch.population.data.loader.requests import BatchRequest
from inarch.population.data.reading.decoding import decode_pixels
from inarch.population.data.reading.encoded_images import ContentReader
from inarch.population.errors import DataError, InarchError


class BatchMaker(Dataset[Any]):
    """Dataset of batches, by request. A worker process receives a copy.

    An error about the images becomes the result, because an exception in a worker would bury it in a traceback.
    """

    def __init__(
        self, reader: ContentReader, spec: DecodingSpec, *, is_training: bool, cache: CacheLayout | None = None
    ) -> None:
        """Store the settings.

        Args:
            reader: Function that returns the bytes of an image.
            spec: How images are decoded and cropped.
            is_training: Whether training images are made, and not images for evaluation.
            cache: File of decoded images. None: there is none.
        """
        self._reader, self._spec, self._layout = reader, spec, cache
        self._has_random_size = is_training and spec.has_margin

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_cache"}

    @functools.cached_property
    def _cache(self) -> CachedImages | None:
        """The cache file, opened in this process."""
        return None if self._layout is None else CachedImages(self._layout)

    def __getitem__(self, request: BatchRequest) -> tuple[Tensor, Tensor] | InarchError:
        entries = zip(request.numbers.tolist(), request.slots.tolist(), request.cells, strict=True)
        try:
            with _one_thread():
                pictures = [torch.from_numpy(self._picture(request, *entry)) for entry in entries]
        except InarchError as error:
            return error
        # In a worker, default_collate stacks the images in shared memory.
        return default_collate(pictures), torch.from_numpy(request.labels)

    def _picture(self, request: BatchRequest, number: int, slot: int, cell: Any) -> np.ndarray:
        """Return an image of a batch, shape (channels, height, width)."""
        prepared = self._prepared(slot, cell)
        if request.augmentation is None:
            return prepared
        if self._has_random_size:
            return random_resized_crop(prepared, self._spec, request.augmentation, number=number)
        return random_shift(prepared, request.augmentation, number=number)

    def _prepared(self, slot: int, cell: Any) -> np.ndarray:
        """Return an image before its random changes, from the cache or decoded."""
        cached = None if self._cache is None else self._cache.read(slot)
        if cached is not None:
            height, width, pixels = cached
            return pixels.reshape((height, width, -1) if self._has_random_size else (-1, height, width))
        if cell is None:
            raise DataError(f"data.cache: image {slot} of {self._layout and self._layout.path} was altered; run again")
        content, name = self._reader(cell)
        picture = decode_pixels(content, name, channels=self._spec.channels)
        if not self._has_random_size:
            prepared = evaluation_picture(picture, self._spec)
        else:
            prepared = picture if self._cache is None else stored_picture(picture, self._spec)
        if self._cache is not None:
            height, width = prepared.shape[:2] if self._has_random_size else prepared.shape[1:]
            self._cache.write(slot, height, width, prepared)
        return prepared


@contextlib.contextmanager
def _one_thread() -> Generator[None]:
    """Let torch use one thread. On images of this size, several threads wait for each other most of the time."""
    before = torch.get_num_threads()
    if before == 1:  # as in a worker process
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def max_pixels(spec: DecodingSpec, *, is_training: bool) -> int:
    """Return the most pixels of a prepared image, which is the size of a slot of the cache.

    Args:
        spec: How images are decoded and cropped.
        is_training: Whether training images are made.
    """
    height, width = height_and_width(spec.image_size)
    return stored_area(spec) if is_training and spec.has_margin else height * width
