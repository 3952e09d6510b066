"""Writes a network's checkpoints beside its training."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import time

from inarch.actors.network.log_file import LogFile
from inarch.actors.retry import RETRY_SECONDS
from inarch.population.errors import StorageError
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointStore
from inarch.population.persistence.history import TABLES


class AsyncCheckpointer:
    """Writes checkpoints on a thread of its own, one at a time: training waits only for the one before.

    While storage fails, training goes on, and what could not be written is handed to the next checkpoint: rows and
    the best weights are not lost. A network gives up when storage has failed for longer than the deadline. Where a
    later incarnation has claimed the network, nothing is written any more (`is_fenced`).
    """

    def __init__(self, checkpoints: CheckpointStore, log: LogFile, *, deadline_seconds: float) -> None:
        self._checkpoints, self._log, self._deadline = checkpoints, log, deadline_seconds
        self._writer = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="committer")
        self._under_way: concurrent.futures.Future[None] | None = None
        self._unwritten: Checkpoint | None = None
        self._failing_since: float | None = None
        self.is_fenced = False
        """Whether a later incarnation was found to have claimed the network."""

    def commit(self, checkpoint: Checkpoint) -> None:
        """Begin to write a checkpoint, when the one before is written or has failed.

        Raises:
            StorageError: storage has failed for too long.
        """
        self._wait()
        if not self.is_fenced:
            self._under_way = self._writer.submit(self._write, checkpoint)

    def wait(self) -> None:
        """Wait until the last checkpoint is written, or found not to be wanted; write it again where it failed.

        Raises:
            StorageError: storage has failed for too long.
        """
        self._wait()
        while self._unwritten is not None:
            time.sleep(RETRY_SECONDS)
            self._under_way = self._writer.submit(self._write, self._unwritten)
            self._wait()

    def _wait(self) -> None:
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            return
        try:
            under_way.result(timeout=self._deadline)
        except concurrent.futures.TimeoutError:
            raise StorageError(f"a checkpoint was not written within {self._deadline:g} s") from None

    def _write(self, checkpoint: Checkpoint) -> None:
        before = self._unwritten
        if before is not None and before is not checkpoint:
            rows = {table: [*before.rows.get(table, ()), *checkpoint.rows.get(table, ())] for table in TABLES}
            checkpoint = dataclasses.replace(checkpoint, rows=rows, best=checkpoint.best or before.best)
        try:
            self.is_fenced |= not self._checkpoints.commit(checkpoint)
        except StorageError as error:
            now = time.monotonic()
            self._unwritten, self._failing_since = checkpoint, self._failing_since or now
            self._log.logger.warning("checkpoint %s was not written: %s", checkpoint.id.name, error)
            if now - self._failing_since > self._deadline:
                raise
            return
        self._unwritten, self._failing_since = None, None
