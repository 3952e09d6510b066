"""Write a network's checkpoints while it trains."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import time

from ray.util.metrics import Counter

from inarch.actors.network.log_file import LogFile
from inarch.actors.retry import RETRY_SECONDS
from inarch.population.errors import StorageError
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointStore
from inarch.population.persistence.history import TABLES


class StorageMetrics:
    """Counters of one run for Ray's dashboard and Prometheus. Each network's process adds to them."""

    def __init__(self, run: str) -> None:
        """Register the counters.

        Args:
            run: Name of the run, their label.
        """
        self.checkpoints = Counter("inarch_checkpoints_total", "Checkpoints written.", ("run",))
        self.failures = Counter("inarch_storage_failures_total", "Checkpoints that could not be written.", ("run",))
        for counter in (self.checkpoints, self.failures):
            counter.set_default_tags({"run": run})


class AsyncCheckpointer:
    """Writes checkpoints on its own thread, one at a time. Training waits only for the previous checkpoint.

    Training continues while storage fails. The next checkpoint then includes the history rows and the best weights of
    the failed one, so nothing is lost. If storage fails for longer than the deadline, the failure is raised in the
    training thread. Once a later incarnation may commit, this one writes nothing more (`is_fenced`).
    """

    def __init__(
        self,
        checkpoints: CheckpointStore,
        log: LogFile,
        *,
        deadline_seconds: float,
        metrics: StorageMetrics | None = None,
    ) -> None:
        """Create the checkpointer. Its thread starts with the first checkpoint.

        Args:
            checkpoints: Checkpoints of the run.
            log: Log of the network, for failures of storage.
            deadline_seconds: Longest time that storage may fail, and longest time to write one checkpoint.
            metrics: Counters of the run. None: nothing is counted.
        """
        self._checkpoints, self._log, self._deadline = checkpoints, log, deadline_seconds
        self._metrics = metrics
        self._writer = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="committer")
        self._under_way: concurrent.futures.Future[None] | None = None
        self._unwritten: Checkpoint | None = None
        self._failing_since: float | None = None
        self.is_fenced = False
        """Whether a commit was refused because a later incarnation, or another start of the run, has taken over."""

    def commit(self, checkpoint: Checkpoint) -> None:
        """Wait for the previous checkpoint, then begin to write this one.

        Args:
            checkpoint: The checkpoint. It is released once it is written.

        Raises:
            StorageError: Storage has failed for longer than the deadline.
        """
        self._wait()
        if not self.is_fenced:
            self._under_way = self._writer.submit(self._write, checkpoint)

    def wait(self) -> None:
        """Wait until the last checkpoint is written, or refused because of a later incarnation. Retry if it failed.

        Raises:
            StorageError: Storage has failed for longer than the deadline.
        """
        self._wait()
        while self._unwritten is not None:
            time.sleep(RETRY_SECONDS)
            self._under_way = self._writer.submit(self._write, self._unwritten)
            self._wait()

    def _wait(self) -> None:
        """Wait for the write in progress, and raise its error if it has one."""
        pending, self._under_way = self._under_way, None
        if pending is None:
            return
        try:
            pending.result(timeout=self._deadline)
        except concurrent.futures.TimeoutError:
            raise StorageError(f"a checkpoint was not written within {self._deadline:g} s") from None

    def _write(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, with the rows and the best weights of a checkpoint that failed before."""
        failed = self._unwritten
        if failed is not None and failed is not checkpoint:
            rows = {table: [*failed.rows.get(table, ()), *checkpoint.rows.get(table, ())] for table in TABLES}
            checkpoint = dataclasses.replace(checkpoint, rows=rows, best=checkpoint.best or failed.best)
        try:
            self.is_fenced |= not self._checkpoints.commit(checkpoint)
        except StorageError as error:
            now = time.monotonic()
            self._unwritten, self._failing_since = checkpoint, self._failing_since or now
            if self._metrics is not None:
                self._metrics.failures.inc()
            self._log.logger.warning("checkpoint %s was not written: %s", checkpoint.id.name, error)
            if now - self._failing_since > self._deadline:
                raise
            return
        checkpoint.release()
        self._unwritten, self._failing_since = None, None
        if self._metrics is not None:
            self._metrics.checkpoints.inc()
        self._log.sync()
