"""Images that are not decoded yet, as the readers of folders and tables return them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from inarch.population.errors import DataError, UnreadableImageError


@dataclass(frozen=True, kw_only=True)
class EncodedImages:
    """Encoded images with their labels, and a function that decodes one of them."""

    name: str
    """Where they come from."""
    labels: np.ndarray
    """Shape (images,), int64."""
    class_names: tuple[str, ...]
    """Names by label."""
    read: Callable[[int], Image.Image]
    """Decodes one image as a viewer shows it, of mode L or RGB; raises UnreadableImageError."""
    groups: np.ndarray
    """Shape (images,): the Parquet row group of each; images of one group are cheap to read together."""
    cameras: np.ndarray | None = None
    """Shape (images,), int64: what took each image, for retrieval across cameras; None: not known."""
    is_thread_safe: bool = False
    """Whether several threads may read at once."""
    notes: tuple[str, ...] = ()
    """What was left out, to be shown before training."""
    unreadable: tuple[str, ...] = ()
    """A message for each image that was left out because it cannot be read."""

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: np.ndarray) -> EncodedImages:
        """Return some of the images."""
        return dataclasses.replace(
            self,
            labels=self.labels[indices],
            read=_Selected(self.read, indices),
            groups=self.groups[indices],
            cameras=None if self.cameras is None else self.cameras[indices],
        )


class _Selected:
    """Reads some of the images; picklable, so that loader workers can."""

    def __init__(self, read: Callable[[int], Image.Image], indices: np.ndarray) -> None:
        self._read, self._indices = read, indices

    def __call__(self, index: int) -> Image.Image:
        return self._read(int(self._indices[index]))


class UnreadableImages:
    """Counts images that cannot be read, up to a limit (data.skip_unreadable)."""

    def __init__(self, limit: int) -> None:
        """Start to count.

        Args:
            limit: How many images may be left out.
        """
        self._limit = limit
        self._found: list[str] = []

    @property
    def limit(self) -> int:
        """How many may be left out."""
        return self._limit

    def add(self, error: UnreadableImageError) -> str:
        """Count one image that is left out, and return its message.

        Raises:
            UnreadableImageError: none may be left out.
            DataError: this is one more than may be left out.
        """
        if not self._limit:
            raise error
        self._found.append(str(error))
        if len(self._found) > self._limit:
            shown = "; ".join(self._found[:3])
            raise DataError(
                f"more images than {self._limit} cannot be read (data.skip_unreadable), among them: {shown}"
            )
        return str(error)
