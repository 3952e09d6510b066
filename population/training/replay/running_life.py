"""One process of a network, repeated: the runtime of its trainer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointId
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.snapshot import Snapshot
from inarch.population.state.snapshot_info import SnapshotInfo
from inarch.population.training.replay.plan import LifePlan
from inarch.population.training.replay.record import RecordedExchange
from inarch.population.training.replay.verifier import Verifier
from inarch.population.training.runtime import LocalRuntime
from inarch.population.training.trainer import Trainer


class RunningLife(LocalRuntime):
    """Trains one network as its process did, and stops where the plan ends.

    Its exchanges are those of the record. `scions` must hold the snapshots for an exchange before `advance` runs it.
    """

    def __init__(
        self,
        trainer: Trainer,
        plan: LifePlan,
        exchanges: Mapping[int, RecordedExchange],
        verifier: Verifier,
    ) -> None:
        """Begin a process's training.

        Args:
            trainer: The network, as the process began with it.
            plan: How far the process is repeated.
            exchanges: Its recorded exchanges by interval.
            verifier: Compares it with the run.
        """
        self.trainer, self.plan = trainer, plan
        self.scions: tuple[Snapshot, ...] = ()
        """Snapshots for the next exchange, in the recorded order."""
        self.published = 0
        """Interval of the newest snapshot. 0: none was published."""
        self.is_over = False
        self._exchanges, self._verifier = exchanges, verifier
        self._intervals: Iterator[tuple[IntervalReport, Snapshot | None]] = trainer.intervals(self)

    @property
    def pending_exchange(self) -> RecordedExchange | None:
        """The exchange that the next `advance` runs. None: it runs none."""
        has_stopped = self.plan.stop_step(self.published - 1) is not None
        return None if has_stopped else self._exchanges.get(self.published)

    def advance(self) -> Snapshot | None:
        """Run to the next publication, and return the snapshot. None: nothing was published, or the process is over.

        The snapshot's buffer is valid until the next call.
        """
        torch.set_num_threads(self.plan.birth.environment.threads)
        if self.trainer.is_finished and self.trainer.publishes and not self.published:
            snapshot: Snapshot | None = self.trainer.snapshot(self.now())  # a finished network that restarted
        else:
            try:
                _, snapshot = next(self._intervals)
            except StopIteration:
                self.is_over = True
                return None
        if snapshot is not None:
            self.published = snapshot.origin.interval
        return snapshot

    @property
    def is_complete(self) -> bool:
        """Whether the plan needs nothing more than what was published."""
        if self.is_over:
            return True
        is_published = self.published >= self.plan.last and self.published > self.plan.exchanged
        return is_published and self.plan.stop_step(self.published - 1) is None

    def now(self) -> float:
        """Return the recorded time of the exchange of the interval in progress."""
        exchange = self._exchanges.get(self.trainer.interval)
        return self.plan.birth.time if exchange is None else exchange.time

    def after_step(self) -> bool:
        """Return False where the process stopped within an interval."""
        return self.trainer.step != self.plan.stop_step(self.trainer.interval)

    def should_continue(self) -> bool:
        """Return whether the plan needs a later interval."""
        return self.trainer.interval < self.plan.last

    def fetch_scions(self, own: SnapshotInfo) -> tuple[Snapshot, ...] | ExchangeOutcome:
        """Return the recorded scions, or the recorded reason why there were none."""
        exchange = self.pending_exchange
        if exchange is None:
            return ExchangeOutcome.STOPPING
        self._verifier.before_exchange(self.trainer)
        scions, self.scions = self.scions, ()
        return scions or ExchangeOutcome(exchange.outcome)

    def commit(self, report: IntervalReport, checkpoint: Checkpoint | None) -> None:
        """Hand over the end of an interval, with its checkpoint if the plan needs it."""
        trainer = self.trainer
        if checkpoint is None:
            identity = CheckpointId(incarnation=trainer.incarnation, interval=trainer.interval)
            checkpoint = trainer.checkpoint() if identity in self.plan.checkpoints else None
        elif checkpoint.id not in self.plan.checkpoints:
            checkpoint.release()
            checkpoint = None
        exchange = self._exchanges.get(trainer.interval) if report.outcome else None
        self._verifier.after_exchange(trainer, exchange, report, checkpoint)
