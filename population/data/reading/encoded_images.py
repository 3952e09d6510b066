"""Encoded images, as the readers of folders and tables return them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from inarch.population.data.reading.decoding import decode
from inarch.population.errors import DataError, UnreadableImageError


class ContentReader(Protocol):
    """Function that returns an image's encoded bytes. It is small, because each loader worker receives a copy."""

    def __call__(self, cell: Any) -> tuple[bytes, str]:
        """Return the bytes of an image, and its file or row for error messages.

        Args:
            cell: Entry of `ImageSource.cells` for the image.

        Raises:
            UnreadableImageError: There are no such bytes.
            DataError: The storage failed.
        """
        ...


class ImageSource(Protocol):
    """A folder or table of encoded images. It is read in two steps.

    The process that trains reads the cells: paths, or rows of a table. Loader workers then read the content and decode
    it. A row group is therefore read once, whatever the number of workers.
    """

    @property
    def reader(self) -> ContentReader:
        """Function that returns an image's bytes from its cell."""
        ...

    def cells(self, indices: Sequence[int]) -> list[Any]:
        """Return what the reader needs for some images: a path, or the cell of a table.

        Args:
            indices: Numbers of the images. Each group among them is read once.

        Raises:
            DataError: The table cannot be read.
        """
        ...

    def identity(self) -> bytes:
        """Return a hash of the names and places of all images."""
        ...


@dataclass(frozen=True, kw_only=True)
class EncodedImages:
    """A set of encoded images with their labels, and the source that reads them."""

    name: str
    """Source of the images, for error messages."""
    labels: np.ndarray
    """Label of each image, int64, shape (images,)."""
    class_names: tuple[str, ...]
    """Names of the classes, by label."""
    source: ImageSource
    """Folder or table of the images."""
    groups: np.ndarray | None = None
    """Group of each image (its Parquet row group), shape (images,). Images of a group are read together. None: each
    image is read alone."""
    cameras: np.ndarray | None = None
    """Camera of each image, for retrieval across cameras, int64, shape (images,). None: not known."""
    is_thread_safe: bool = False
    """Whether several threads may call `read` at once."""
    notes: tuple[str, ...] = ()
    """Notes on files and images that were left out. They are printed before training."""
    unreadable: tuple[str, ...] = ()
    """A message for each unreadable image that was left out."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def read(self, index: int) -> Image.Image:
        """Decode an image, to mode L or RGB as a viewer shows it.

        Args:
            index: Number of the image.

        Raises:
            UnreadableImageError: The image cannot be read.
        """
        content, name = self.source.reader(self.source.cells([index])[0])
        return decode(content, name)

    def select(self, indices: np.ndarray) -> EncodedImages:
        """Return some of the images.

        Args:
            indices: Numbers of the images.
        """
        return dataclasses.replace(
            self,
            labels=self.labels[indices],
            source=_Selected(self.source, indices),
            groups=None if self.groups is None else self.groups[indices],
            cameras=None if self.cameras is None else self.cameras[indices],
        )


class _Selected:
    """Source of some of the images of another source."""

    def __init__(self, source: ImageSource, indices: np.ndarray) -> None:
        self._source, self._indices = source, indices

    @property
    def reader(self) -> ContentReader:
        return self._source.reader

    def cells(self, indices: Sequence[int]) -> list[Any]:
        return self._source.cells([int(self._indices[index]) for index in indices])

    def identity(self) -> bytes:
        return hashlib.sha256(self._source.identity() + np.ascontiguousarray(self._indices).tobytes()).digest()


class UnreadableImages:
    """Counter of unreadable images, up to a limit (data.skip_unreadable)."""

    def __init__(self, limit: int) -> None:
        """Create a counter at 0.

        Args:
            limit: Greatest number of images that may be left out. With 0, the first unreadable image is an error.
        """
        self._limit = limit
        self._found: list[str] = []

    @property
    def limit(self) -> int:
        """Greatest number of images that may be left out."""
        return self._limit

    def add(self, error: UnreadableImageError) -> str:
        """Count an image that is left out, and return its message.

        Args:
            error: Error of reading the image.

        Raises:
            UnreadableImageError: No image may be left out.
            DataError: The count exceeds the limit.
        """
        if not self._limit:
            raise error
        self._found.append(str(error))
        if len(self._found) > self._limit:
            shown = "; ".join(self._found[:3])
            raise DataError(
                f"data.skip_unreadable={self._limit}: more images than that cannot be read, among them: {shown}"
            )
        return str(error)
