"""A whole population in one process on virtual time, with the same state machine and trainers as on Ray.

A simulation is deterministic for a seed: networks of given speeds exchange, join, leave and die at given times, within
seconds and without a cluster. The ledger records which network grafted which version, and when.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from inarch.population.config import RunConfig
from inarch.population.errors import ConfigError
from inarch.population.membership.members import MemberState
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.population_state import JoinPoint, PopulationState
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.membership.topology import check_topology
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointStore
from inarch.population.persistence.history_schemas import Rows
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.snapshot import Snapshot
from inarch.population.state.snapshot_info import SnapshotInfo
from inarch.population.tasks.protocol import BoundTask
from inarch.population.training.birth import StartPoint
from inarch.population.training.runtime import LocalRuntime
from inarch.population.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """How an interval of a network ended."""

    seconds: float
    """Virtual time."""
    network_id: int
    incarnation: int
    interval: int
    outcome: ExchangeOutcome
    scion: int | None
    """Id of the donor. None without a graft."""
    version: int | None
    """Interval of the scion. None without a graft."""


@dataclass(frozen=True, kw_only=True)
class Join:
    """A network joins at a virtual time."""

    seconds: float
    is_fresh: bool = False
    """Whether it keeps its own initial weights instead of cloning a member."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The process of a network dies at a virtual time. It restarts from its newest checkpoint."""

    seconds: float
    network_id: int
    restart_seconds: float = 0.0
    """Virtual seconds until the restart."""


@dataclass(frozen=True, kw_only=True)
class Leave:
    """A network is asked to leave at a virtual time."""

    seconds: float
    network_id: int


@dataclass(kw_only=True)
class Simulation:
    """The result of a simulated run."""

    ledger: list[LedgerEntry] = field(default_factory=list)
    """All intervals in the order of their ends."""
    reports: dict[int, list[IntervalReport]] = field(default_factory=dict)
    """Committed reports of each network, in order."""
    trainers: dict[int, Trainer] = field(default_factory=dict)
    """The last trainer of each network, with its final weights."""
    seconds: float = 0.0
    """Virtual time at the end."""


class Simulator:
    """Runs one population on virtual time."""

    def __init__(
        self,
        config: RunConfig,
        make_task: Callable[[], BoundTask],
        *,
        step_seconds: Mapping[int, float] | None = None,
        post_seconds: float = 0.0,
        events: Sequence[Join | Loss | Leave] = (),
        checkpoints: CheckpointStore | None = None,
    ) -> None:
        """Create a simulation.

        Args:
            config: The run's configuration. `population.size` networks start. `mode` is async or lockstep.
            make_task: Returns the task of a network.
            step_seconds: Virtual seconds of a step, by network id, 1 by default.
            post_seconds: Virtual seconds until a published snapshot is in the index, in async mode.
            events: Joins, losses and leaves. Losses and leaves of networks that have ended have no effect.
            checkpoints: Receives checkpoints and history, so that the simulated run can be replayed. None: nothing is
                written.

        Raises:
            ConfigError: There is no topology of the configured name.
        """
        check_topology(config.topology)
        self.config = config
        self.state: PopulationState[Snapshot] = PopulationState(config)
        self.result = Simulation()
        self._make_task = make_task
        self._step_seconds = dict(step_seconds or {})
        self._post_seconds = post_seconds
        self._events, self.store = events, checkpoints
        self._queue: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._lives: dict[int, _Life] = {}
        self._at_barrier: dict[int, list[_Life]] = {}
        self._fresh: set[int] = set()
        self._observe: Callable[[int, Trainer, IntervalReport], None] | None = None

    def run(self, observe: Callable[[int, Trainer, IntervalReport], None] | None = None) -> Simulation:
        """Run to the end of every network's schedule.

        Args:
            observe: Called with network id, trainer and report after each committed interval.

        Raises:
            ConfigError: A network that is to leave or to be lost does not exist at that time.
        """
        self._observe = observe
        for _ in range(self.config.population.size):
            self._begin(self._new_trainer(self.state.members.add(is_initial=True).id), 0.0, StartPoint.initial())
        for event in self._events:
            self._at(event.seconds, lambda now, event=event: self._apply(event, now))
        while self._queue:
            now, _, call = heapq.heappop(self._queue)
            call(now)
        self.result.seconds = max((entry.seconds for entry in self.result.ledger), default=0.0)
        return self.result

    def fetch_scions(self, own: SnapshotInfo) -> tuple[Snapshot, ...] | ExchangeOutcome:
        """Return the snapshots that a network may graft from, or the reason why there are none."""
        selected = self.state.select_donors(own)
        assert selected is not None, "a network continues only after its barrier was released"
        return selected if isinstance(selected, ExchangeOutcome) else tuple(item.payload for item in selected)

    def record(self, life: _Life, report: IntervalReport, scion: SnapshotInfo | None) -> None:
        """Record the end of a network's interval."""
        assert report.outcome is not None
        is_graft = report.outcome is ExchangeOutcome.GRAFTED
        network_id = life.trainer.network_id
        self.result.ledger.append(
            LedgerEntry(
                seconds=life.now(),
                network_id=network_id,
                incarnation=life.trainer.incarnation,
                interval=report.origin.interval,
                outcome=report.outcome,
                scion=scion.network_id if scion and is_graft else None,
                version=scion.interval if scion and is_graft else None,
            )
        )
        self.result.reports.setdefault(network_id, []).append(report)
        if self._observe is not None:
            self._observe(network_id, life.trainer, report)

    def _at(self, seconds: float, call: Callable[[float], None]) -> None:
        heapq.heappush(self._queue, (seconds, next(self._order), call))

    def _new_trainer(self, network_id: int) -> Trainer:
        incarnation = self.state.members[network_id].incarnation
        return Trainer(self._make_task(), self.config, network_id=network_id, incarnation=incarnation)

    def _begin(self, trainer: Trainer, now: float, start: StartPoint) -> None:
        network_id = trainer.network_id
        self.state.num_intervals = trainer.schedule.num_intervals
        self.state.mark_started(network_id, interval=trainer.interval)
        self.state.begin_training(network_id)
        life = _Life(self, trainer, now, self._step_seconds.get(network_id, 1.0))
        self._lives[network_id] = life
        if self.store is not None:
            life.record_early(trainer.record_birth(start, now=now), trainer.interval)
        self.result.trainers[network_id] = trainer
        self._advance(life)

    def _advance(self, life: _Life) -> None:
        """Run a network to its next publication, and schedule that for its own time."""
        try:
            report, snapshot = next(life.intervals)
        except StopIteration:
            self._end(life)
            return
        if snapshot is not None:
            snapshot = Snapshot(
                origin=snapshot.origin,
                information=snapshot.information,
                buffer=life.trainer.packing.as_received(snapshot.buffer),
                layout=snapshot.layout,
            )
        self._at(life.now(), lambda now: self._publish(life, report, snapshot, now))

    def _end(self, life: _Life) -> None:
        network_id = life.trainer.network_id
        has_trained = bool(self.result.reports.get(network_id))  # one that joins when the others have ended has not
        is_leaving = self.state.members[network_id].state is MemberState.LEAVING or not has_trained
        self.state.members.set_state(network_id, MemberState.RETIRED if is_leaving else MemberState.DONE)
        if is_leaving:
            self.state.forget(network_id, keep_snapshots=self.config.mode == "lockstep")
        self._release(life.now())

    def _publish(self, life: _Life, report: IntervalReport, snapshot: Snapshot | None, now: float) -> None:
        network_id, interval = life.trainer.network_id, report.origin.interval
        if self._lives.get(network_id) is not life:
            return
        self.state.record_interval(network_id, interval)
        if self.config.mode == "async":
            if snapshot is not None and self._post_seconds:
                self._at(now + self._post_seconds, lambda later: self._index(life, snapshot, later))
            elif snapshot is not None:
                self._index(life, snapshot, now)
            self._advance(life)
            return
        self._at_barrier.setdefault(interval, []).append(life)
        if snapshot is not None:
            self._index(life, snapshot, now)
        else:
            self.state.arrive(network_id, interval, now=now)
        self._at(now + self.config.timeouts.barrier_seconds, self._release)
        self._release(now)

    def _index(self, life: _Life, snapshot: Snapshot, now: float) -> None:
        """Put a snapshot into the index, unless its network's process has died since."""
        if self._lives.get(life.trainer.network_id) is life:
            published = PublishedSnapshot(origin=snapshot.origin, information=snapshot.information, payload=snapshot)
            self.state.publish(published, now=now)

    def _release(self, now: float) -> None:
        """lockstep: release barriers, start the networks that join, and let those that waited continue."""
        released = self.state.release_barriers(now=now)
        for network_id, point in released.joins.items():
            self._join(network_id, point, now)
        for interval in [interval for interval in self._at_barrier if self.state.is_released(interval)]:
            waiting = self._at_barrier.pop(interval, [])
            for life in sorted(waiting, key=lambda life: life.trainer.network_id):
                life.seconds = now
                self._advance(life)

    def _apply(self, event: Join | Loss | Leave, now: float) -> None:
        if isinstance(event, Join):
            network_id = self.state.members.add(is_initial=False).id
            if event.is_fresh:
                self._fresh.add(network_id)
            point = self.state.join(network_id)
            if point is not None:
                self._join(network_id, point, now)
            return
        if event.network_id not in self.state.members:
            raise ConfigError(f"there is no network {event.network_id} at {event.seconds:g} s; correct {event}")
        if event.network_id not in self.state.members.active():
            return  # it has ended
        if isinstance(event, Loss):
            if event.network_id in self._lives:
                self._lose(event, now)
        elif not self.state.leave(event.network_id):
            self.state.forget(event.network_id)
            self._release(now)

    def _join(self, network_id: int, point: JoinPoint[Snapshot], now: float) -> None:
        trainer = self._new_trainer(network_id)
        if point.parent is not None and network_id not in self._fresh:
            trainer.clone_from(point.parent.payload)
            start = StartPoint.cloned(point.parent.origin)
        else:
            trainer.fast_forward(point.interval)
            start = StartPoint.initial(point.interval)
        self._begin(trainer, now, start)

    def _lose(self, event: Loss, now: float) -> None:
        life = self._lives.pop(event.network_id)
        self.state.lose(event.network_id)
        for waiting in self._at_barrier.values():
            if life in waiting:
                waiting.remove(life)
        self._at(now + event.restart_seconds, lambda later: self._restart(life, later))

    def _restart(self, lost: _Life, now: float) -> None:
        network_id = lost.trainer.network_id
        if self.state.members[network_id].state is not MemberState.LOST:
            return  # it was asked to leave meanwhile
        self.state.members.restart(network_id)
        trainer = self._new_trainer(network_id)
        start = StartPoint.initial()
        if lost.checkpoint is not None:
            trainer.resume(lost.checkpoint)
            start = StartPoint.resumed(network_id, lost.checkpoint.id)
        self._begin(trainer, now, start)
        self._lives[network_id].checkpoint = lost.checkpoint


class _Life(LocalRuntime):
    """One incarnation of a network on virtual time: the trainer's runtime."""

    def __init__(self, simulator: Simulator, trainer: Trainer, seconds: float, step_seconds: float) -> None:
        self.trainer, self.seconds = trainer, seconds
        self.checkpoint: Checkpoint | None = None
        self._simulator, self._step_seconds = simulator, step_seconds
        self._scion: SnapshotInfo | None = None
        self.intervals: Iterator[tuple[IntervalReport, Snapshot | None]] = trainer.intervals(self)

    def now(self) -> float:
        return self.seconds

    def after_step(self) -> bool:
        self.seconds += self._step_seconds
        return True

    def should_continue(self) -> bool:
        return self._simulator.state.members[self.trainer.network_id].state is not MemberState.LEAVING

    def fetch_scions(self, own: SnapshotInfo) -> tuple[Snapshot, ...] | ExchangeOutcome:
        scions = self._simulator.fetch_scions(own)
        self._scion = None if isinstance(scions, ExchangeOutcome) else scions[0].origin
        return scions

    def record_early(self, rows: Rows, interval: int) -> None:
        if self._simulator.store is not None:
            self._simulator.store.write_early(self.trainer.network_id, self.trainer.incarnation, interval, rows)

    def commit(self, report: IntervalReport, checkpoint: Checkpoint | None) -> None:
        self.checkpoint = checkpoint or self.checkpoint
        if checkpoint is not None and self._simulator.store is not None:
            self._simulator.store.commit(checkpoint)
        if report.outcome:
            self._simulator.record(self, report, self._scion)
