"""Requests for batches. The process that trains makes them, and reads row groups for them. Workers fulfil them."""

from __future__ import annotations

import concurrent.futures
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inarch.population.data.loader.crops import Augmentation
from inarch.population.data.loader.decoded_cache import CachedImages
from inarch.population.data.reading.encoded_images import EncodedImages
from inarch.population.errors import DataError

READING_SECONDS = 120.0
"""Longest wait for a row group."""


@dataclass(frozen=True, kw_only=True)
class BatchRequest:
    """What a loader worker needs to make a batch."""

    numbers: np.ndarray
    """Numbers of the images in their data set, shape (batch,). They decide the random choices."""
    slots: np.ndarray
    """Places of the images in their part, shape (batch,). They are also their slots in the cache."""
    cells: Sequence[Any]
    """Entry of `ImageSource.cells` for each image. None: the image is in the cache."""
    labels: np.ndarray
    """Label of each image, int64, shape (batch,). The worker returns them with the images."""
    augmentation: Augmentation | None
    """Random changes. None: the images are prepared for evaluation."""


class RequestMaker:
    """Makes the requests for one pass over the images."""

    def __init__(self, images: EncodedImages, indices: np.ndarray, cache: CachedImages | None) -> None:
        """Prepare to make requests.

        Args:
            images: Images of a data set.
            indices: Numbers of the images of this part, shape (indices,).
            cache: The decoded images of this part. None: there is no cache.
        """
        self._images, self._indices, self._cache = images, indices, cache

    def __len__(self) -> int:
        """Return the number of images in the part."""
        return len(self._indices)

    def requests(self, order: np.ndarray, batch_size: int, augmentation: Augmentation | None) -> Iterator[BatchRequest]:
        """Yield the requests of a pass.

        Args:
            order: Places in the part, in the order of the pass.
            batch_size: Images in a batch. The last batch may have fewer.
            augmentation: Random changes. None: the images are prepared for evaluation.

        Yields:
            A request for each batch.
        """
        cells = self._cells(order)
        for start in range(0, len(order), batch_size):
            slots = order[start : start + batch_size]
            is_cached = self._are_cached(slots)
            yield BatchRequest(
                numbers=self._indices[slots],
                slots=slots,
                cells=cells.take(slots, is_cached),
                labels=self._images.labels[self._indices[slots]],
                augmentation=augmentation,
            )

    def _cells(self, order: np.ndarray) -> _AloneCells | _GroupedCells:
        if self._images.groups is None:
            return _AloneCells(self._images, self._indices)
        return _GroupedCells(self._images, self._indices, order, self._are_cached)

    def _are_cached(self, slots: np.ndarray) -> np.ndarray:
        return np.zeros(len(slots), dtype=bool) if self._cache is None else self._cache.holds(slots)


class _AloneCells:
    """Cells of images that are read alone: paths."""

    def __init__(self, images: EncodedImages, indices: np.ndarray) -> None:
        self._images, self._indices = images, indices

    def take(self, slots: np.ndarray, is_cached: np.ndarray) -> list[Any]:
        """Return the cells of a batch. Paths cost nothing, so that cached images have theirs too."""
        return self._images.source.cells(self._indices[slots].tolist())


class _GroupedCells:
    """Cells of a table. Each row group is read once in a pass, and each cell is dropped when it is taken.

    A thread reads the next group ahead.
    """

    def __init__(
        self,
        images: EncodedImages,
        indices: np.ndarray,
        order: np.ndarray,
        are_cached: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        self._images, self._indices, self._are_cached = images, indices, are_cached
        groups = (indices if images.groups is None else images.groups)[indices]
        by_group = order[np.argsort(groups[order], kind="stable")]
        names, starts = np.unique(groups[by_group], return_index=True)
        self._groups = groups
        self._members = dict(zip(names.tolist(), np.split(by_group, starts[1:]), strict=True))
        first_uses = np.unique(groups[order], return_index=True)[1]
        self._unread = deque(groups[order[np.sort(first_uses)]].tolist())
        self._cells: dict[int, Any] = {}
        self._reading: dict[int, concurrent.futures.Future[list[tuple[int, Any]]]] = {}
        self._pool = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="row-groups")

    def take(self, slots: np.ndarray, is_cached: np.ndarray) -> list[Any]:
        """Return the cells of a batch. None for images in the cache.

        Another network may have decoded an image between the check of the batch and the reading of its group, whose
        cells then lack the image. It is in the cache by then.
        """
        cells = []
        for slot, has_pixels in zip(slots.tolist(), is_cached.tolist(), strict=True):
            group = int(self._groups[slot])
            if slot not in self._cells and not has_pixels and (group in self._members or group in self._reading):
                self._cells.update(self._read(group))
            cell = self._cells.pop(slot, None)
            cells.append(None if has_pixels else cell)
        return cells

    def _read(self, group: int) -> list[tuple[int, Any]]:
        """Return the cells of a group, and begin to read the next one."""
        self._begin(group)
        try:
            cells = self._reading.pop(group).result(timeout=READING_SECONDS)
        except concurrent.futures.TimeoutError:
            raise DataError(f"{self._images.name}: a row group was not read within {READING_SECONDS:g} s") from None
        while self._unread and not self._reading:
            self._begin(self._unread.popleft())
        return cells

    def _begin(self, group: int) -> None:
        """Begin to read a group, unless that was begun before."""
        if group in self._members:
            self._reading[group] = self._pool.submit(self._cells_of, self._members.pop(group))

    def _cells_of(self, slots: np.ndarray) -> list[tuple[int, Any]]:
        missing = slots[~self._are_cached(slots)]
        cells = self._images.source.cells(self._indices[missing].tolist()) if len(missing) else []
        return list(zip(missing.tolist(), cells, strict=True))
