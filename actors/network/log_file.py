"""The log that each process of a run has: in the run's folder, and on the page of its actor in Ray's dashboard."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import queue
import tempfile
import time
from pathlib import Path

from inarch.population.errors import StorageError
from inarch.population.persistence.storage import Storage

LINES_SECONDS = 5.0
"""Longest wait until the thread has written the lines before the file is copied."""


class LogFile:
    """A logger that writes to `logs/<name>.log` in a run's folder, and to the standard error of the process.

    Ray shows the standard error of an actor on the actor's page.

    If the folder is not local or not writable, the logger writes to a local file, and `sync` copies it to the folder.
    """

    def __init__(self, storage: Storage, name: str, *, in_background: bool = False) -> None:
        """Open the log file.

        Args:
            storage: The run's folder.
            name: Name of the file, without its suffix.
            in_background: Whether a thread writes the lines, so that a folder that hangs holds nobody up.
        """
        self._storage, self._relative = storage, f"logs/{name}.log"
        path = None if "://" in storage.uri else _writable(Path(storage.path(self._relative)))
        self._is_local = path is not None
        if path is None:
            descriptor, name_of_copy = tempfile.mkstemp(prefix="inarch-", suffix=".log")
            os.close(descriptor)
            path = Path(name_of_copy)
        self._path = path
        self.logger = logging.getLogger(f"inarch.{storage.uri}.{name}")
        self.logger.setLevel(logging.INFO)
        self.logger.propagate = False
        handlers: list[logging.Handler] = [logging.FileHandler(path, delay=False), logging.StreamHandler()]
        for handler in handlers:
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._listener: logging.handlers.QueueListener | None = None
        self._lines: queue.Queue[logging.LogRecord] = queue.Queue()
        if in_background:
            self._listener = logging.handlers.QueueListener(self._lines, *handlers)
            self._listener.start()
            handlers = [logging.handlers.QueueHandler(self._lines)]
        for handler in handlers:
            self.logger.addHandler(handler)

    def close(self) -> None:
        """Write the lines that wait for the thread, and end it. Later lines are lost."""
        if self._listener is not None:
            self._listener.stop()
            self._listener = None

    def sync(self) -> None:
        """Copy a local log file to the run's folder. Storage errors are ignored, so that none ends a network."""
        if not self._is_local:
            deadline = time.monotonic() + LINES_SECONDS
            while self._lines.unfinished_tasks and time.monotonic() < deadline:
                time.sleep(0.01)
            with contextlib.suppress(StorageError):
                self._storage.write(self._relative, self._path.read_bytes())


def _writable(path: Path) -> Path | None:
    """Create a file and return its path, or None if it cannot be written. A log must not end its network."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError:
        return None
    return path
