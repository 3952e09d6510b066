"""Each process of a run has a log file in the run's folder."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path

from inarch.population.errors import StorageError
from inarch.population.persistence.storage import Storage


class LogFile:
    """A logger that writes `logs/<name>.log` of a run's folder; where that is no local folder, a local file that
    `sync` copies there."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._relative = storage, f"logs/{name}.log"
        path = None if "://" in storage.uri else _writable(Path(storage.path(self._relative)))
        self._is_local = path is not None
        self._path = path = path or Path(tempfile.mkstemp(prefix="inarch-", suffix=".log")[1])
        self.logger = logging.getLogger(f"inarch.{storage.uri}.{name}")
        self.logger.setLevel(logging.INFO)
        self.logger.propagate = False
        handler = logging.FileHandler(path, delay=False)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.logger.addHandler(handler)

    def sync(self) -> None:
        """Copy the log to where it belongs; a storage that fails must not end a network over its log."""
        if not self._is_local:
            with contextlib.suppress(StorageError):
                self._storage.write(self._relative, self._path.read_bytes())


def _writable(path: Path) -> Path | None:
    """The file, made; None where it cannot be written: a storage that fails must not end a network over its log."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError:
        return None
    return path
