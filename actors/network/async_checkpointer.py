"""Write a network's checkpoints while it trains."""

from __future__ import annotations

import dataclasses
import threading
import time
from dataclasses import dataclass

from ray.util.metrics import Counter

from inarch.actors.network.log_file import LogFile
from inarch.actors.retry import RETRY_SECONDS
from inarch.population.errors import StorageError
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointStore
from inarch.population.persistence.history_schemas import TABLES

SLOW_SECONDS = 30.0
"""Time after which a write that has not ended counts as trouble with storage."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 60.0
"""Pause after a write that failed before it is tried again. It doubles with each failure."""


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


@dataclass(frozen=True, kw_only=True)
class StorageTrouble:
    """A failure of storage that lasts."""

    reason: str
    """Why the newest checkpoint could not be written. Empty: storage works."""
    unwritten_seconds: float
    """Age of the oldest rows and weights that are not written. 0 if all are."""


class AsyncCheckpointer:
    """Writes checkpoints on its own thread, one at a time. Training never waits for it.

    At most two checkpoints are in memory: one that is being written, and one that waits. A newer checkpoint replaces
    the one that waits, and includes its history rows and its best weights, so nothing is lost. A checkpoint whose write
    failed waits too, and is tried again after a pause. If storage fails or hangs for longer than the deadline, the
    failure is raised in the training thread. Once a later incarnation may commit, this one writes nothing more
    (`is_fenced`).
    """

    def __init__(
        self,
        checkpoints: CheckpointStore,
        log: LogFile,
        *,
        deadline_seconds: float,
        slow_seconds: float = SLOW_SECONDS,
        pause_seconds: float = FIRST_PAUSE_SECONDS,
        metrics: StorageMetrics | None = None,
    ) -> None:
        """Create the checkpointer. Its thread starts with the first checkpoint.

        Args:
            checkpoints: Checkpoints of the run.
            log: Log of the network, for failures of storage.
            deadline_seconds: Longest time that storage may fail, and longest time to write one checkpoint.
            slow_seconds: Time after which a write that has not ended counts as trouble with storage.
            pause_seconds: Pause after the first failure, before the write is tried again.
            metrics: Counters of the run. None: nothing is counted.
        """
        self._first_pause = self._pause = pause_seconds
        self._is_pausing = False
        self._checkpoints, self._log, self._metrics = checkpoints, log, metrics
        self._deadline, self._slow = deadline_seconds, slow_seconds
        self._changed = threading.Condition()
        self._waiting: _Pending | None = None
        self._writing: _Pending | None = None
        self._write_began = 0.0
        self._failing_since: float | None = None
        self._failure: StorageError | None = None
        self._error: BaseException | None = None
        self.is_fenced = False
        """Whether a commit was refused because a later incarnation, or another start of the run, has taken over."""

    def commit(self, checkpoint: Checkpoint) -> None:
        """Hand a checkpoint over. The call returns at once, also while an earlier one is being written.

        Args:
            checkpoint: The checkpoint. It is released once it is written, or once a newer one has replaced it.

        Raises:
            StorageError: Storage has failed, or one write has lasted, for longer than the deadline.
        """
        with self._changed:
            self._check()
            if self.is_fenced:
                checkpoint.release()
                return
            self._waiting = _Pending(checkpoint, time.monotonic()).after(self._waiting)
            self._begin()

    def wait(self, *, seconds: float | None = None) -> bool:
        """Wait until the last checkpoint is written, or refused because of a later incarnation. Retry if it failed.

        Args:
            seconds: Longest wait. None: until it is written.

        Returns:
            Whether everything is written.

        Raises:
            StorageError: Storage has failed, or one write has lasted, for longer than the deadline.
        """
        end = None if seconds is None else time.monotonic() + seconds
        with self._changed:
            while True:
                self._check()
                if self._writing is None and (self._waiting is None or self.is_fenced):
                    return True
                if end is not None and time.monotonic() >= end:
                    return False
                pause = RETRY_SECONDS if end is None else min(RETRY_SECONDS, end - time.monotonic())
                is_retry = self._writing is None
                self._changed.wait(max(0.0, pause))
                if is_retry:
                    self._begin()

    def trouble(self) -> StorageTrouble:
        """Return whether storage fails at present, and for how long rows and weights have not been written."""
        now = time.monotonic()
        with self._changed:
            pending = self._writing or self._waiting
            reason = "" if self._failure is None else str(self._failure)
            if not reason and self._writing is not None and now - self._write_began > self._slow:
                name = self._writing.checkpoint.id.name
                reason = f"checkpoint {name} has been written for {now - self._write_began:.0f} s and is not complete"
            return StorageTrouble(reason=reason, unwritten_seconds=0.0 if pending is None else now - pending.since)

    def _check(self) -> None:
        """Raise the error that ends the network, if there is one."""
        if self._error is not None:
            raise self._error
        if self._writing is not None and time.monotonic() - self._write_began > self._deadline:
            raise StorageError(f"a checkpoint was not written within {self._deadline:g} s")

    def _begin(self) -> None:
        """Begin to write the checkpoint that waits, unless one is being written."""
        if self._writing is None and self._waiting is not None and not self.is_fenced:
            self._writing, self._waiting = self._waiting, None
            self._write_began = time.monotonic()
            # A daemon, because a write that hangs must not keep the process from ending.
            threading.Thread(target=self._write_all, name="committer", daemon=True).start()

    def _write_all(self) -> None:
        """Write the checkpoint that was begun, and those that wait by then. End after a failure."""
        pending = self._writing
        while pending is not None:
            is_written = False
            try:
                is_written = self._write(pending.checkpoint)
            except BaseException as error:  # raised in the training thread
                self._error = error
            with self._changed:
                newer, self._writing = self._waiting, None
                if not is_written and not self.is_fenced:
                    self._waiting = pending if newer is None else newer.after(pending)
                    self._try_later()
                elif newer is not None:
                    self._begin_next(newer)
                pending = self._writing  # read here: once the lock is free, `commit` may start another thread
                self._changed.notify_all()

    def _try_later(self) -> None:
        """Write the checkpoint that waits after a pause, unless another call has written it by then."""
        if self._error is None and not self._is_pausing:
            self._is_pausing = True
            timer = threading.Timer(self._pause, self._try_again)
            timer.daemon = True
            timer.start()
            self._pause = min(2.0 * self._pause, LONGEST_PAUSE_SECONDS)

    def _try_again(self) -> None:
        with self._changed:
            self._is_pausing = False
            self._begin()

    def _begin_next(self, pending: _Pending) -> None:
        if self.is_fenced:
            pending.checkpoint.release()
        else:
            self._writing, self._write_began = pending, time.monotonic()
        self._waiting = None

    def _write(self, checkpoint: Checkpoint) -> bool:
        """Write a checkpoint. Return whether it was written. If a later incarnation has taken over, it was not."""
        try:
            is_written = self._checkpoints.commit(checkpoint)
        except StorageError as error:
            now = time.monotonic()
            self._failing_since = self._failing_since or now
            self._failure = error
            if self._metrics is not None:
                self._metrics.failures.inc()
            self._log.logger.warning("checkpoint %s was not written: %s", checkpoint.id.name, error)
            if now - self._failing_since > self._deadline:
                raise
            return False
        checkpoint.release()
        self._failing_since, self._failure, self._pause = None, None, self._first_pause
        self.is_fenced |= not is_written
        if self._metrics is not None and is_written:
            self._metrics.checkpoints.inc()
        self._log.sync()
        return is_written


@dataclass(frozen=True)
class _Pending:
    """A checkpoint that is not written."""

    checkpoint: Checkpoint
    since: float
    """Time at which the oldest rows in it were handed over."""

    def after(self, passed_over: _Pending | None) -> _Pending:
        """Return this checkpoint with the rows and the best weights of an earlier one, which is given up."""
        if passed_over is None:
            return self
        earlier = passed_over.checkpoint
        rows = {table: [*earlier.rows.get(table, ()), *self.checkpoint.rows.get(table, ())] for table in TABLES}
        merged = dataclasses.replace(self.checkpoint, rows=rows, best=self.checkpoint.best or earlier.best)
        earlier.release()
        return _Pending(merged, passed_over.since)
