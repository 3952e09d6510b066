"""The services that a trainer needs from its environment."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Protocol

from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.persistence.checkpoint import Checkpoint
from inarch.population.persistence.history_schemas import Rows
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.snapshot import Snapshot
from inarch.population.state.snapshot_info import SnapshotInfo


class TrainerRuntime(Protocol):
    """Services that a `Trainer` needs from its environment: clock, stop signals, snapshot exchange, checkpointing.

    The network actor, the simulator and the tests each implement it.
    """

    def now(self) -> float:
        """Return seconds of the runtime's clock, which is virtual in the simulator."""
        ...

    def after_step(self) -> bool:
        """Handle the end of a step and return whether to continue. After False the trainer commits and returns."""
        ...

    def should_continue(self) -> bool:
        """Return after an interval's exchange whether to begin another one. After False the trainer returns."""
        ...

    def compiling(self) -> AbstractContextManager[object]:
        """Return a context in which torch.compile may compile. The first pass of each size of batch runs in it."""
        ...

    def prefetch(self, own: SnapshotInfo) -> None:
        """Begin to fetch scions while the network is evaluated.

        Args:
            own: Progress of the network after the interval's steps.
        """
        ...

    def put_early(self, snapshot: Snapshot) -> None:
        """Begin to put a snapshot's bytes into the object store while the network is evaluated, and do not publish it.

        Args:
            snapshot: The snapshot that the trainer will yield, but for its score. Its buffer stays as it is until then.
        """
        ...

    def fetch_scions(self, own: SnapshotInfo) -> tuple[Snapshot, ...] | ExchangeOutcome:
        """Return the newest admissible snapshots, nearest donor first, or the reason why there are none.

        Args:
            own: Progress of the network.
        """
        ...

    def stored(self, snapshot: Snapshot) -> Snapshot | None:
        """Return a published snapshot with a buffer that never changes, without copying it. None if there is none.

        Args:
            snapshot: Snapshot that the trainer yielded last.
        """
        ...

    def record_early(self, rows: Rows, interval: int) -> None:
        """Begin to write rows that must survive even if no checkpoint follows them. The next checkpoint holds them too.

        Args:
            rows: Rows of the tables in `EARLY_TABLES`.
            interval: Intervals completed.
        """
        ...

    def commit(self, report: IntervalReport, checkpoint: Checkpoint | None) -> None:
        """Record the end of an interval.

        Args:
            report: Report of the interval.
            checkpoint: A checkpoint that the runtime may keep, and releases once it is written. None: none is due.
        """
        ...


class LocalRuntime(TrainerRuntime):
    """A runtime without other networks. It never stops the training, and it keeps no checkpoint.

    Runtimes of one process extend it. They supply a clock, and override what else they provide.
    """

    def after_step(self) -> bool:
        """Return True."""
        return True

    def should_continue(self) -> bool:
        """Return True."""
        return True

    def compiling(self) -> AbstractContextManager[object]:
        """Return a context that does nothing."""
        return contextlib.nullcontext()

    def prefetch(self, own: SnapshotInfo) -> None:
        """Do nothing."""

    def put_early(self, snapshot: Snapshot) -> None:
        """Do nothing."""

    def fetch_scions(self, own: SnapshotInfo) -> tuple[Snapshot, ...] | ExchangeOutcome:
        """Return that there is nothing yet."""
        return ExchangeOutcome.NOTHING_YET

    def stored(self, snapshot: Snapshot) -> Snapshot | None:
        """Return None: there is no object store."""
        return None

    def record_early(self, rows: Rows, interval: int) -> None:
        """Do nothing."""

    def commit(self, report: IntervalReport, checkpoint: Checkpoint | None) -> None:
        """Do nothing."""


class Stopwatch:
    """Measures laps on a runtime's clock."""

    def __init__(self, runtime: TrainerRuntime) -> None:
        """Start the first lap.

        Args:
            runtime: Its clock is used.
        """
        self._runtime, self._last = runtime, runtime.now()

    def lap(self) -> float:
        """Return the seconds since the last lap, and start the next."""
        before, self._last = self._last, self._runtime.now()
        return self._last - before
