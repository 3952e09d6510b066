"""A whole population in one process on virtual time: the same members, board, topology and trainers as on Ray.

Deterministic for a seed: networks with given speeds exchange, join and die at given times, in seconds and without a
cluster. The ledger says who read which version when.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from inarch.population.config import RunConfig
from inarch.population.membership.barrier import Barrier
from inarch.population.membership.members import Members, MemberState
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.snapshot_index import PublishedSnapshot, SnapshotIndex
from inarch.population.membership.staleness import staleness_limit
from inarch.population.persistence.checkpoint import Checkpoint
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.snapshot import Snapshot, SnapshotInfo
from inarch.population.tasks.protocol import Task
from inarch.population.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """One line of the ledger: how an interval of a network ended."""

    seconds: float
    """Virtual time."""
    network_id: int
    incarnation: int
    interval: int
    outcome: ExchangeOutcome
    """grafted, off, or a refusal's name."""
    scion: int | None
    version: int | None
    """Interval of the scion; None without a graft."""


@dataclass(frozen=True, kw_only=True)
class Join:
    """A newcomer at a virtual time."""

    seconds: float
    is_fresh: bool = False


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A network dies at a virtual time, and comes back from its newest checkpoint after `restart_seconds`."""

    seconds: float
    network_id: int
    restart_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Leave:
    """A network is asked to leave at a virtual time."""

    seconds: float
    network_id: int


@dataclass(kw_only=True)
class Simulation:
    """What a simulated run leaves."""

    ledger: list[LedgerEntry] = field(default_factory=list)
    reports: dict[int, list[IntervalReport]] = field(default_factory=dict)
    """Committed reports of each network, in order."""
    trainers: dict[int, Trainer] = field(default_factory=dict)
    """The last trainer of each network, with its final weights."""
    seconds: float = 0.0
    """Virtual time at the end."""


class Simulator:
    """Runs one population."""

    def __init__(
        self,
        config: RunConfig,
        make_task: Callable[[], Task],
        *,
        step_seconds: Mapping[int, float] | None = None,
        post_seconds: float = 0.0,
        events: Sequence[Join | Loss | Leave] = (),
        observe: Callable[[int, Trainer, IntervalReport], None] | None = None,
    ) -> None:
        """Args:
        config: The run's; `population.size` networks begin, `mode` is async or lockstep.
        make_task: Gives each network its task.
        step_seconds: Virtual seconds of a step of each network; 1 where not given.
        post_seconds: How long a snapshot is under way to the board.
        events: Joins, losses and leaves.
        observe: Called with id, trainer and report after each committed interval.
        """
        self.config = config
        self.members = Members()
        kept = 2 if config.mode == "lockstep" else 1
        self.index: SnapshotIndex[Snapshot] = SnapshotIndex(config.topology, seed=config.seed, num_versions=kept)
        self.barrier = Barrier(deadline_seconds=config.timeouts.barrier_seconds)
        self._make_task, self._observe = make_task, observe
        self._step_seconds = dict(step_seconds or {})
        self._post_seconds = post_seconds
        self._events = events
        self._queue: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._lives: dict[int, _Life] = {}
        self._at_barrier: dict[int, list[_Life]] = {}
        self._joining: list[tuple[int, bool]] = []
        self.result = Simulation()

    def run(self) -> Simulation:
        """Run to the end of every network's schedule."""
        for _ in range(self.config.population.size):
            member = self.members.add(is_initial=True)
            self._begin(self._new_trainer(member.id), 0.0)
        for event in self._events:
            self._at(event.seconds, lambda now, event=event: self._happen(event, now))
        while self._queue:
            now, _, call = heapq.heappop(self._queue)
            call(now)
        self.result.seconds = max((line.seconds for line in self.result.ledger), default=0.0)
        return self.result

    def fetch_scions(self, life: _Life, own: SnapshotInfo, now: float) -> tuple[Snapshot, ...] | ExchangeOutcome:
        """What a network gets when it pulls."""
        members, donors, version = self.members.in_topology(), self.members.donors(), None
        if (opening := self.barrier.opening(own.interval)) is not None:
            if opening.is_timed_out:
                return ExchangeOutcome.BARRIER_TIMEOUT
            members, donors, version = opening.members, opening.donors, own.interval
        limit = staleness_limit(self.config.staleness, num_intervals=life.trainer.schedule.num_intervals)
        count = self.config.exchange.donor_limit
        offered = self.index.select_donors(
            own, members=members, donors=donors, limit=limit, count=count, version=version
        )
        return offered if isinstance(offered, ExchangeOutcome) else tuple(posting.payload for posting in offered)

    def committed(self, life: _Life, report: IntervalReport, scion: SnapshotInfo | None) -> None:
        """A network's interval is over."""
        assert report.outcome is not None
        is_graft = report.outcome is ExchangeOutcome.GRAFTED
        self.result.ledger.append(
            LedgerEntry(
                seconds=life.now(),
                network_id=life.trainer.network_id,
                incarnation=life.trainer.incarnation,
                interval=report.origin.interval,
                outcome=report.outcome,
                scion=scion.network_id if scion and is_graft else None,
                version=scion.interval if scion and is_graft else None,
            )
        )
        self.result.reports.setdefault(life.trainer.network_id, []).append(report)
        if self._observe is not None:
            self._observe(life.trainer.network_id, life.trainer, report)

    def _at(self, seconds: float, call: Callable[[float], None]) -> None:
        heapq.heappush(self._queue, (seconds, next(self._order), call))

    def _new_trainer(self, network_id: int) -> Trainer:
        incarnation = self.members[network_id].incarnation
        return Trainer(self._make_task(), self.config, network_id=network_id, incarnation=incarnation)

    def _begin(self, trainer: Trainer, now: float) -> None:
        self.members.set_state(trainer.network_id, MemberState.TRAINING)
        life = _Life(self, trainer, now, self._step_seconds.get(trainer.network_id, 1.0))
        self._lives[trainer.network_id] = life
        self.result.trainers[trainer.network_id] = trainer
        self._advance(life)

    def _advance(self, life: _Life) -> None:
        """Run a network to its next publication, which happens at its own time."""
        try:
            report, snapshot = next(life.intervals)
        except StopIteration:
            self._end(life)
            return
        if snapshot is not None:
            snapshot = Snapshot(
                origin=snapshot.origin,
                information=snapshot.information,
                buffer=snapshot.buffer.copy(),
                layout=snapshot.layout,
            )
        self._at(life.now(), lambda now: self._publish(life, report, snapshot, now))

    def _end(self, life: _Life) -> None:
        network_id = life.trainer.network_id
        leaving = self.members[network_id].state is MemberState.LEAVING
        self.members.set_state(network_id, MemberState.RETIRED if leaving else MemberState.DONE)
        if leaving and self.config.mode == "async":
            self.index.remove(network_id)
        for interval in list(self._at_barrier):
            self._open_barrier(interval, life.now())

    def _publish(self, life: _Life, report: IntervalReport, snapshot: Snapshot | None, now: float) -> None:
        if self._lives.get(life.trainer.network_id) is not life:
            return
        if snapshot is not None:
            posting = PublishedSnapshot(origin=snapshot.origin, information=snapshot.information, payload=snapshot)
            if self._post_seconds and self.config.mode == "async":
                self._at(now + self._post_seconds, lambda _: self._post(life, posting))
            else:
                self._post(life, posting)
        if self.config.mode == "async":
            self._advance(life)
            return
        interval = report.origin.interval
        self._at_barrier.setdefault(interval, []).append(life)
        self.barrier.arrive(life.trainer.network_id, interval, now=now)
        deadline = now + self.config.timeouts.barrier_seconds
        self._at(deadline, lambda later: self._open_barrier(interval, later))
        self._open_barrier(interval, now)

    def _post(self, life: _Life, posting: PublishedSnapshot[Snapshot]) -> None:
        if self._lives.get(life.trainer.network_id) is life:
            self.index.publish(posting)

    def _open_barrier(self, interval: int, now: float) -> None:
        waiting = self._at_barrier.get(interval)
        if not waiting:
            return
        if self.barrier.try_release(interval, expected=self._expected(), members=self.members, now=now) is None:
            return
        del self._at_barrier[interval]
        self.index.drop_before(interval)
        self._admit(now)
        for life in sorted(waiting, key=lambda life: life.trainer.network_id):
            life.seconds = now
            self._advance(life)

    def _expected(self) -> list[int]:
        """Members that will reach the barrier: those that train, and lost ones that come back."""
        return [network_id for network_id in self.members.active() if network_id not in dict(self._joining)]

    def _admit(self, now: float) -> None:
        """lockstep: newcomers that waited begin after the barrier's interval."""
        joining, self._joining = self._joining, []
        for network_id, is_fresh in joining:
            self._join_now(network_id, is_fresh=is_fresh, now=now)

    def _happen(self, event: Join | Loss | Leave, now: float) -> None:
        if isinstance(event, Join):
            network_id = self.members.add(is_initial=False).id
            if self.config.mode == "lockstep" and self.members.donors():
                self._joining.append((network_id, event.is_fresh))
            else:
                self._join_now(network_id, is_fresh=event.is_fresh, now=now)
        elif isinstance(event, Leave):
            self.members.set_state(event.network_id, MemberState.LEAVING)
        elif event.network_id in self._lives and event.network_id in self.members.active():
            self._lose(event, now)

    def _join_now(self, network_id: int, *, is_fresh: bool, now: float) -> None:
        trainer = self._new_trainer(network_id)
        parent = self.index.select_parent(network_id, members=self.members.in_topology(), donors=self.members.donors())
        if parent is not None and is_fresh:
            trainer.fast_forward(parent.origin.interval)
        elif parent is not None:
            trainer.clone_from(parent.payload)
        self._begin(trainer, now)

    def _lose(self, event: Loss, now: float) -> None:
        life = self._lives.pop(event.network_id)
        self.members.set_state(event.network_id, MemberState.LOST)
        self.index.remove(event.network_id)
        self.barrier.forget(event.network_id)
        for waiting in self._at_barrier.values():
            if life in waiting:
                waiting.remove(life)
        self._at(now + event.restart_seconds, lambda later: self._revive(life, later))

    def _revive(self, lost: _Life, now: float) -> None:
        network_id = self.members.restart(lost.trainer.network_id).id
        trainer = self._new_trainer(network_id)
        if lost.checkpoint is not None:
            trainer.resume(lost.checkpoint)
        self._begin(trainer, now)
        self._lives[network_id].checkpoint = lost.checkpoint


class _Life:
    """One incarnation of a network on virtual time: the trainer's host."""

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
        return self._simulator.members[self.trainer.network_id].state is not MemberState.LEAVING

    def prefetch(self, own: SnapshotInfo) -> None:
        """Nothing to do: what is pulled is there at once."""

    def fetch_scions(self, own: SnapshotInfo) -> tuple[Snapshot, ...] | ExchangeOutcome:
        found = self._simulator.fetch_scions(self, own, self.seconds)
        self._scion = None if isinstance(found, ExchangeOutcome) else found[0].origin
        return found

    def commit(self, report: IntervalReport, checkpoint: Checkpoint | None) -> None:
        self.checkpoint = checkpoint or self.checkpoint
        if report.outcome:
            self._simulator.committed(self, report, self._scion)
