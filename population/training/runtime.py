"""What a network's training asks of whoever runs it: a clock, leave to go on, scions, a place to commit to."""

from __future__ import annotations

from typing import Protocol

from inarch.population.membership.outcome import Refusal
from inarch.population.persistence.checkpoint import Checkpoint
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.snapshot import Snapshot, SnapshotInfo


class TrainerRuntime(Protocol):
    """Whoever runs a trainer."""

    def now(self) -> float:
        """Seconds of the host's clock; virtual in the simulator."""
        ...

    def after_step(self) -> bool:
        """Called after every step: whether to go on. False ends the life with a checkpoint within the interval."""
        ...

    def should_continue(self) -> bool:
        """Called after every interval's graft: whether to begin another. False ends the life with a checkpoint."""
        ...

    def prefetch(self, own: SnapshotInfo) -> None:
        """The interval's steps are done: a scion may be asked for, so that it is there when it is pulled."""
        ...

    def fetch_scions(self, own: SnapshotInfo) -> tuple[Snapshot, ...] | Refusal:
        """The newest admissible scions, nearest donor first, at most exchange.num_donors; or why there is none."""
        ...

    def commit(self, report: IntervalReport, checkpoint: Checkpoint | None) -> None:
        """The interval is over. The checkpoint's tensors are copies, the host's to keep; None where none is due."""
        ...


class Stopwatch:
    """Laps on a host's clock."""

    def __init__(self, host: TrainerRuntime) -> None:
        """Args: whose clock; the first lap begins."""
        self._host, self._last = host, host.now()

    def lap(self) -> float:
        """Seconds since the lap before."""
        before, self._last = self._last, self._host.now()
        return self._last - before
