"""Let the networks of a node compile one after another.

Inductor keeps what it compiles on the node's disk. The first network compiles, and the others find its result there.
Without a lock, all of them would compile the same graphs at the same time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from logging import Logger
from pathlib import Path

COMPILE_SECONDS = 600.0
"""Longest wait for other networks that compile."""

POLL_SECONDS = 0.1
"""Seconds between two looks at the lock. The operating system has no wait for a lock with a limit."""


class CompileLock:
    """A lock that one process of this node and user holds. It is free again when that process ends or dies."""

    def __init__(self, logger: Logger, *, path: Path | None = None, wait_seconds: float = COMPILE_SECONDS) -> None:
        """Create the lock without taking it.

        Args:
            logger: Log of the network.
            path: The lock's file. None: one in Inductor's cache folder, or in the system's folder for temporary files.
            wait_seconds: Longest wait for it.
        """
        self._logger, self._wait_seconds = logger, wait_seconds
        self._path = path or _default_path()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock as long as the context lasts. After `wait_seconds` the context begins without it.

        Yields:
            Nothing.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            began = time.monotonic()
            is_held = self._take(file.fileno(), began + self._wait_seconds)
            waited = time.monotonic() - began
            if not is_held:
                self._logger.warning("compiling at the same time as another network: it took over %.0f s", waited)
            elif waited > 1.0:
                self._logger.info("waited %.1f s for a network that compiled", waited)
            try:
                yield
            finally:
                if is_held:
                    # Closing the file is not enough where a process was forked meanwhile, which has it open too.
                    fcntl.flock(file, fcntl.LOCK_UN)

    def _take(self, file: int, deadline: float) -> bool:
        """Return whether the lock was taken before a time."""
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(POLL_SECONDS)
            else:
                return True


def _default_path() -> Path:
    folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir()
    return Path(folder, f"inarch-compile-{os.getuid()}.lock")
