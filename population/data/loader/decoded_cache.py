"""A file of decoded images that all networks of a node share, so that each image is decoded once.

The file has a slot for each image. A network that misses an image decodes it and fills its slot. Two networks that do
so at once write the same bytes, so that neither waits for the other. The entry of a slot holds a checksum of its pixels
and is written last. A reader therefore never takes a half-written image, and a killed writer leaves an empty slot.

Each network holds a shared lock on the file, which the system releases when the network's process ends. The last
network removes the file. A file without a lock belongs to a run that was killed, and the next network removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from inarch.population.errors import DataError

PAUSE_SECONDS = 0.05
"""Pause before the file is opened again, while another network reserves its disk space."""

ATTEMPTS = 1200
"""Attempts to open the file. They take a minute."""

ENTRY = np.dtype("<u8")
"""Entry of a slot: height in 16 bits, width in 16 bits, and a checksum of 32 bits. 0: the slot is empty."""

PAGE = 4096
"""Bytes of a page. The slots begin at a page."""

RESERVE_BYTES = 1 << 28
"""Most bytes of the disk that the file leaves free. A smaller file leaves as many bytes free as it has."""

MEBIBYTE = 2**20
"""Bytes of a MiB."""


@dataclass(frozen=True, kw_only=True)
class CacheLayout:
    """Place and shape of a cache file. Loader workers receive it."""

    path: str
    """The file."""
    num_images: int
    """Number of slots."""
    max_pixels: int
    """Most pixels of an image."""
    channels: int
    """Channels of an image."""

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot."""
        return self.max_pixels * self.channels

    @property
    def first_byte(self) -> int:
        """Place of the first slot in the file."""
        return -(-self.num_images * ENTRY.itemsize // PAGE) * PAGE

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return self.first_byte + self.num_images * self.slot_bytes


class CachedImages:
    """The images in a cache file. A process reads them from its memory map, without copying."""

    def __init__(self, layout: CacheLayout) -> None:
        """Open the file.

        Args:
            layout: The file, which a `SharedCache` of this run holds.
        """
        self._layout = layout
        self._descriptor = os.open(layout.path, os.O_RDWR | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        self._entries = np.memmap(layout.path, dtype=ENTRY, mode="r+", shape=(layout.num_images,))
        self._bytes = np.memmap(layout.path, dtype=np.uint8, mode="r+", shape=(layout.nbytes,))

    def holds(self, slots: np.ndarray) -> np.ndarray:
        """Return whether each of some slots is filled.

        Args:
            slots: Numbers of slots.
        """
        return np.asarray(self._entries[slots] != 0)

    def read(self, slot: int) -> tuple[int, int, np.ndarray] | None:
        """Return height, width and bytes of an image. None: the slot is empty, or its bytes are not those written.

        Args:
            slot: Number of the slot.

        Returns:
            The bytes are a view of the file and must not be changed.
        """
        entry = int(self._entries[slot])
        height, width, checksum = entry >> 48, entry >> 32 & 0xFFFF, entry & 0xFFFFFFFF
        if not entry:
            return None
        start = self._layout.first_byte + slot * self._layout.slot_bytes
        pixels = np.asarray(self._bytes[start : start + height * width * self._layout.channels])
        return (height, width, pixels) if _checksum(pixels) == checksum else None

    def write(self, slot: int, height: int, width: int, pixels: np.ndarray) -> None:
        """Fill a slot.

        Args:
            slot: Number of the slot.
            height: Rows of the image.
            width: Columns of the image.
            pixels: Pixels of the image, uint8, at most `max_pixels`.

        Raises:
            DataError: The file cannot be written.
        """
        content = np.ascontiguousarray(pixels).reshape(-1)
        entry = np.array(height << 48 | width << 32 | _checksum(content), dtype=ENTRY)
        try:
            self._write_at(self._layout.first_byte + slot * self._layout.slot_bytes, content.data)
            self._write_at(slot * ENTRY.itemsize, entry.reshape(1).view(np.uint8).data)
        except OSError as error:
            raise DataError(f"data.cache: {self._layout.path} cannot be written: {error.strerror}") from error

    def _write_at(self, place: int, content: memoryview) -> None:
        while content:
            written = os.pwrite(self._descriptor, content, place)
            place, content = place + written, content[written:]


class SharedCache:
    """A cache file that this process uses. The file is removed when no process uses it any more."""

    def __init__(self, folder: str | None, key: bytes, *, num_images: int, max_pixels: int, channels: int) -> None:
        """Open the file, and reserve its disk space if this is the first network of the node.

        Args:
            folder: Folder of the file, on a disk of this node. None: the system's folder for temporary files.
            key: Hash of the images and of how they are decoded. Networks with the same key share a file.
            num_images: Number of images.
            max_pixels: Most pixels of an image.
            channels: Channels of an image.

        Raises:
            DataError: The folder cannot be used, or its disk lacks room.
        """
        place = Path(folder or tempfile.gettempdir()).expanduser()
        name = f"inarch-{os.getuid()}-{hashlib.sha256(key).hexdigest()[:24]}.cache"
        self.layout = CacheLayout(
            path=str(place / name), num_images=num_images, max_pixels=max_pixels, channels=channels
        )
        try:
            place.mkdir(parents=True, exist_ok=True)
            _remove_unused(place)
            descriptor = _opened(self.layout)
        except OSError as error:
            raise DataError(
                f"data.cache: {place} cannot be used: {error.strerror}; name another folder in data.cache_folder"
            ) from error
        self._release = weakref.finalize(self, _release, descriptor, self.layout.path)

    def close(self) -> None:
        """Give the file up. The last process that does so removes it."""
        self._release()


def _opened(layout: CacheLayout) -> int:
    """Return a descriptor of the complete file, which holds a shared lock."""
    for _ in range(ATTEMPTS):
        descriptor = os.open(layout.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if _is_usable(descriptor, layout):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        threading.Event().wait(PAUSE_SECONDS)
    raise DataError(f"data.cache: another process has locked {layout.path} for a minute; end it, or remove the file")


def _is_usable(descriptor: int, layout: CacheLayout) -> bool:
    """Lock a file, and give it its size if it is new. Return False if it must be opened again."""
    if _is_locked(descriptor, fcntl.LOCK_EX):  # no living network uses the file
        if not _is_at(descriptor, layout.path):
            return False
        if os.fstat(descriptor).st_size:  # a killed run left it, perhaps of other images
            os.unlink(layout.path)
            return False
        try:
            _reserve(descriptor, layout)
        except BaseException:
            os.unlink(layout.path)
            raise
    is_shared = _is_locked(descriptor, fcntl.LOCK_SH)
    return is_shared and _is_at(descriptor, layout.path) and os.fstat(descriptor).st_size == layout.nbytes


def _is_locked(descriptor: int, kind: int) -> bool:
    """Lock a file without waiting. Return whether that succeeded."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: str) -> bool:
    """Return whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _reserve(descriptor: int, layout: CacheLayout) -> None:
    """Give a file its size. On most file systems the disk space then belongs to it."""
    folder = os.path.dirname(layout.path)
    needed = layout.nbytes + min(layout.nbytes, RESERVE_BYTES)
    free = shutil.disk_usage(folder).free
    if free >= needed:
        try:
            os.posix_fallocate(descriptor, 0, layout.nbytes)
            return
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                os.ftruncate(descriptor, layout.nbytes)
                return
            if error.errno != errno.ENOSPC:
                raise
    raise DataError(
        f"data.cache: {layout.num_images:,} decoded images need {needed / MEBIBYTE:,.1f} MiB of disk space, and "
        f"{folder} has {free / MEBIBYTE:,.1f} MiB; name a folder on a larger disk in "
        "data.cache_folder, or set data.cache=off"
    )


def _remove_unused(folder: Path) -> None:
    """Remove the cache files that no living process uses. Runs that were killed left them."""
    for path in _own_files(folder):
        with contextlib.suppress(OSError):
            _remove_if_unused(os.open(path, os.O_RDWR | os.O_CLOEXEC), str(path))


def _own_files(folder: Path) -> Sequence[Path]:
    return sorted(folder.glob(f"inarch-{os.getuid()}-*.cache"))


def _release(descriptor: int, path: str) -> None:
    """Close a file, and remove it if no other process uses it."""
    with contextlib.suppress(OSError):
        _remove_if_unused(descriptor, path)


def _remove_if_unused(descriptor: int, path: str) -> None:
    try:
        if _is_locked(descriptor, fcntl.LOCK_EX) and _is_at(descriptor, path):
            os.unlink(path)
    finally:
        os.close(descriptor)


def _checksum(pixels: np.ndarray) -> int:
    return xxhash.xxh3_64_intdigest(pixels.data) & 0xFFFFFFFF
