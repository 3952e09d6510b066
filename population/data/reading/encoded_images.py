"""Encoded images, as the readers of folders and tables return them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from inarch.population.errors import DataError, UnreadableImageError


@dataclass(frozen=True, kw_only=True)
class EncodedImages:
    """A set of encoded images with their labels, and a function that decodes an image."""

    name: str
    """Source of the images, for error messages."""
    labels: np.ndarray
    """Label of each image, int64, shape (images,)."""
    class_names: tuple[str, ...]
    """Names of the classes, by label."""
    read: Callable[[int], Image.Image]
    """Function that decodes an image by number, to mode L or RGB as a viewer shows it. Raises UnreadableImageError."""
    groups: np.ndarray
    """Group of each image (its Parquet row group), shape (images,). Images of a group are cheap to read together."""
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

    def select(self, indices: np.ndarray) -> EncodedImages:
        """Return some of the images.

        Args:
            indices: Numbers of the images.
        """
        return dataclasses.replace(
            self,
            labels=self.labels[indices],
            read=_Selected(self.read, indices),
            groups=self.groups[indices],
            cameras=None if self.cameras is None else self.cameras[indices],
        )


class _Selected:
    """Reader of some of the images. It can be pickled, so that loader workers can receive it."""

    def __init__(self, read: Callable[[int], Image.Image], indices: np.ndarray) -> None:
        self._read, self._indices = read, indices

    def __call__(self, index: int) -> Image.Image:
        return self._read(int(self._indices[index]))


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
