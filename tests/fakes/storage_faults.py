"""Folders of a live run that cannot be written, or whose files hang while they are opened. Both need root and Linux."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

BUSY_SECONDS = 20.0
"""Longest wait for a moment in which no file of a folder is open for writing."""


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder read-only for every process, by a mount on top of it.

    Args:
        folder: The folder, which is local and absolute.

    Raises:
        PermissionError: This process may not mount.
    """
    _mount("--bind", str(folder), str(folder))
    try:
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                _mount("-o", "remount,bind,ro", str(folder))
                break
            except PermissionError:  # also while a file below the new mount is open for writing
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*words: str) -> None:
    completed = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if completed.returncode:
        raise PermissionError(completed.stderr)


class HangingFolder:
    """A folder in which every file that is opened hangs, from `begin` to `end`. Then the files open as usual.

    The kernel asks this process before it opens a file there (fanotify(7)), and this process does not answer. Listing
    the folder does not hang.
    """

    CLASS_CONTENT, NONBLOCK = 0x04, 0x02
    MARK_ADD, OPEN_PERMISSION, EVENT_ON_CHILD = 0x01, 0x00010000, 0x08000000
    AT_CWD = -100
    EVENT = struct.Struct("=IBBHQii")
    """Length, version, reserved, length of the metadata, kind, file, and process."""

    def __init__(self, folder: Path) -> None:
        """Create it. Nothing hangs yet.

        Args:
            folder: The folder, which exists.
        """
        self._folder, self._group = folder, -1
        self._files: list[int] = []

    def begin(self) -> None:
        """Let files hang.

        Raises:
            OSError: The kernel lacks fanotify, or this user may not use it.
        """
        kernel = ctypes.CDLL(None, use_errno=True)
        self._group = kernel.fanotify_init(self.CLASS_CONTENT | self.NONBLOCK, os.O_RDONLY)
        if self._group < 0:
            raise OSError(ctypes.get_errno(), "fanotify_init")
        kinds = ctypes.c_uint64(self.OPEN_PERMISSION | self.EVENT_ON_CHILD)
        if kernel.fanotify_mark(self._group, self.MARK_ADD, kinds, self.AT_CWD, os.fsencode(self._folder)):
            error = ctypes.get_errno()
            self.end()
            raise OSError(error, "fanotify_mark")

    def num_hanging(self) -> int:
        """Return how many files hang while they are opened."""
        with contextlib.suppress(BlockingIOError):
            while content := os.read(self._group, 4096):
                self._files += [event[5] for event in self.EVENT.iter_unpack(content)]
        return len(self._files)

    def end(self) -> None:
        """Let all files open. Do nothing if they do."""
        for file in (*self._files, *([self._group] if self._group >= 0 else ())):
            os.close(file)
        self._files, self._group = [], -1
