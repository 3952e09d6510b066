"""Compares a replay with the run, as it proceeds, and keeps the checkpoints from which processes restart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointId, CheckpointStore
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.snapshot import Snapshot
from inarch.population.training.replay.differences import Difference, compare_checkpoints, compare_published
from inarch.population.training.replay.record import Life, RecordedExchange, RunRecord
from inarch.population.training.trainer import Trainer


class ReplayObserver:
    """Sees a replay. Each method does nothing unless it is overridden."""

    def before_exchange(self, trainer: Trainer) -> None:
        """See a network before an exchange. It must stay as it is.

        Args:
            trainer: The network's trainer.
        """

    def after_interval(self, trainer: Trainer, exchange: RecordedExchange | None, report: IntervalReport) -> None:
        """See a network at the end of an interval, after the exchange. It must stay as it is.

        Args:
            trainer: The network's trainer.
            exchange: The recorded exchange. None: there is none.
            report: Report of the interval.
        """

    def on_checkpoint(self, checkpoint: Checkpoint) -> None:
        """See a checkpoint that was asked for.

        Args:
            checkpoint: The checkpoint. It is valid only during the call.
        """


@dataclass(kw_only=True)
class Replay:
    """The result of a replay."""

    difference: Difference | None = None
    """The first difference. The replay ended there. None: everything was equal."""
    num_intervals: int = 0
    """Intervals that were completed, all processes together."""
    num_grafts: int = 0
    """Exchanges that changed a network, or gave it peers."""
    num_published: int = 0
    """Published versions whose hashes were compared."""
    checkpoints: list[tuple[int, CheckpointId]] = field(default_factory=list[tuple[int, CheckpointId]])
    """Checkpoints that were compared bit for bit, each with its network."""


class Verifier:
    """Compares what a replay makes with what the run recorded."""

    def __init__(
        self,
        record: RunRecord,
        recorded: CheckpointStore,
        observers: Sequence[ReplayObserver] = (),
        *,
        restarts: Iterable[tuple[int, CheckpointId]] = (),
    ) -> None:
        """Begin a comparison.

        Args:
            record: What the run's folder records.
            recorded: Checkpoints of the run.
            observers: See the replay too.
            restarts: Checkpoints from which processes restart, each with its network.
        """
        self._record, self._recorded, self._observers = record, recorded, observers
        self._restarts = list(restarts)
        self.made: set[tuple[int, CheckpointId]] = set()
        """Checkpoints that were made so far, each with its network."""
        self._kept: dict[tuple[int, CheckpointId], Checkpoint] = {}
        self.result = Replay()

    def has(self, network_id: int, checkpoint: CheckpointId) -> bool:
        """Return whether a checkpoint was made from which a process restarts.

        Args:
            network_id: Id of the network.
            checkpoint: Id of the checkpoint.
        """
        return (network_id, checkpoint) in self._kept

    def take(self, network_id: int, checkpoint: CheckpointId) -> Checkpoint:
        """Return a checkpoint for a process that restarts from it, and forget it after the last of them.

        Args:
            network_id: Id of the network.
            checkpoint: Id of the checkpoint.
        """
        key = (network_id, checkpoint)
        self._restarts.remove(key)
        return self._kept[key] if key in self._restarts else self._kept.pop(key)

    def published(self, life: Life, snapshot: Snapshot) -> None:
        """Compare a published snapshot with the recorded hashes, if there are any.

        Args:
            life: The process.
            snapshot: Its snapshot.
        """
        exchange = self._record.exchanges.get(life, {}).get(snapshot.origin.interval)
        if exchange is not None and exchange.weights:
            self.result.num_published += 1
            self._note(compare_published(life, snapshot, exchange.weights))

    def before_exchange(self, trainer: Trainer) -> None:
        """Let the observers see a network as it was published.

        Args:
            trainer: The network's trainer.
        """
        for observer in self._observers:
            observer.before_exchange(trainer)

    def after_exchange(
        self,
        trainer: Trainer,
        exchange: RecordedExchange | None,
        report: IntervalReport,
        checkpoint: Checkpoint | None,
    ) -> None:
        """Compare a network after an exchange, or where its process stopped within an interval.

        Args:
            trainer: The network's trainer.
            exchange: The recorded exchange. None: there is none.
            report: Report of the interval.
            checkpoint: A checkpoint that the plan needs. The verifier releases it. None: the plan needs none.
        """
        life = Life(trainer.network_id, trainer.incarnation)
        if report.outcome is not None:
            self.result.num_intervals += 1
            self.result.num_grafts += report.outcome is ExchangeOutcome.GRAFTED
            if exchange is not None and exchange.outcome != report.outcome:
                detail = f"{exchange.outcome} in the run, {report.outcome} in the replay"
                self._note(Difference(life=life, interval=trainer.interval, place="outcome", detail=detail))
            for observer in self._observers:
                observer.after_interval(trainer, exchange, report)
        if checkpoint is not None:
            self._compare(life, checkpoint)

    def _compare(self, life: Life, checkpoint: Checkpoint) -> None:
        checkpoint.wait()
        key = (life.network_id, checkpoint.id)
        self.made.add(key)
        if checkpoint.id in self._record.checkpoints.get(life.network_id, ()):
            recorded = self._recorded.load(*key)
            self._note(compare_checkpoints(life, checkpoint, recorded))
            self.result.checkpoints.append(key)
        for observer in self._observers:
            observer.on_checkpoint(checkpoint)
        if key in self._restarts:
            self._kept[key] = checkpoint  # not released: a process that trains on may not change what was lent
        else:
            checkpoint.release()

    def _note(self, difference: Difference | None) -> None:
        self.result.difference = self.result.difference or difference
