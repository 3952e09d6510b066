"""The state of a population: members, snapshots, barriers and admission, as one synchronous state machine.

It knows neither clock nor process: times come in as arguments, and decisions go out as values. The coordinator actor
and the simulator run the same class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from inarch.population.config import RunConfig
from inarch.population.config.exchange import ALL_DONORS, WHOLE_TOPOLOGIES
from inarch.population.membership.barrier import Barrier
from inarch.population.membership.members import MemberRecord, Members, MemberState
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.snapshot_index import PublishedSnapshot, SnapshotIndex
from inarch.population.membership.staleness import staleness_limit
from inarch.population.membership.topology import Places, num_neighbors
from inarch.population.state.snapshot_info import SnapshotInfo

T = TypeVar("T")

CONTACT_STATES = frozenset({MemberState.TRAINING, MemberState.STALLED, MemberState.LEAVING})
"""States of members that send heartbeats."""


@dataclass(frozen=True, kw_only=True)
class JoinPoint(Generic[T]):
    """Where a joining network begins."""

    interval: int
    """Position in the schedule."""
    parent: PublishedSnapshot[T] | None = None
    """Snapshot to clone. None: the network keeps its own initial weights."""


@dataclass(frozen=True, kw_only=True)
class Release(Generic[T]):
    """What the release of barriers changes."""

    intervals: tuple[int, ...] = ()
    """Intervals whose barriers were released."""
    joins: Mapping[int, JoinPoint[T]] = field(default_factory=dict)
    """Networks that waited to join, with the point where each begins."""


@dataclass(frozen=True, kw_only=True)
class SilentMembers:
    """Members that have been silent for too long."""

    lost_donors: tuple[int, ...] = ()
    """Finished members whose snapshots can no longer be fetched."""
    hanging: tuple[int, ...] = ()
    """Members whose processes must be killed."""
    gone: tuple[int, ...] = ()
    """Guests, whose processes belong to the caller."""


LEASES = 3
"""Leases for which a barrier waits for a member without a process. A network that hangs is ended after as many."""


class PopulationState(Generic[T]):
    """Members of a run, their snapshots, the barriers of lockstep mode, and the networks that wait to join."""

    def __init__(self, config: RunConfig) -> None:
        """Create the state of a run without members.

        Args:
            config: The run's configuration.
        """
        self._config = config
        self._is_lockstep = config.mode == "lockstep"
        self.members = Members()
        self.index: SnapshotIndex[T] = SnapshotIndex(
            config.topology, seed=config.seed, num_versions=2 if self._is_lockstep else 1
        )
        self.num_intervals = 1
        """Intervals of the schedule. Set when the data are known."""
        self._barrier = Barrier(
            deadline_seconds=config.timeouts.barrier_seconds, absence_seconds=LEASES * config.timeouts.lease_seconds
        )
        self._held: set[int] = set()
        self._joining: list[int] = []
        self._intervals: dict[int, int] = {}

    # Progress and snapshots.

    def interval(self, network_id: int) -> int:
        """Return the intervals that a network is known to have completed."""
        return self._intervals.get(network_id, 0)

    def record_interval(self, network_id: int, interval: int) -> None:
        """Record the intervals that a network has completed."""
        self._intervals[network_id] = interval

    def is_current(self, network_id: int, incarnation: int) -> bool:
        """Return whether an incarnation is the newest of a known network."""
        return network_id in self.members and self.members[network_id].incarnation == incarnation

    def record_contact(self, network_id: int, *, has_trained: bool) -> None:
        """Record a sign of life.

        Args:
            network_id: Id of the network.
            has_trained: Whether it sent a report or a snapshot, which only an admitted network does.
        """
        if has_trained:
            self._held.discard(network_id)
        if self.members[network_id].state is MemberState.STALLED:
            self.members.set_state(network_id, MemberState.TRAINING)
        self.members.readmit(network_id)

    def publish(self, snapshot: PublishedSnapshot[T], *, now: float) -> None:
        """Add a snapshot to the index. In lockstep, its network arrives at the barrier.

        Args:
            snapshot: The snapshot.
            now: Seconds of a monotonic clock.
        """
        self.index.publish(snapshot)
        self.arrive(snapshot.origin.network_id, snapshot.origin.interval, now=now)

    def select_donors(self, own: SnapshotInfo) -> tuple[PublishedSnapshot[T], ...] | ExchangeOutcome | None:
        """Select the snapshots that a network may fetch.

        Args:
            own: Progress of the network.

        Returns:
            Snapshots, or the reason why there are none. None while the barrier of the interval is closed.
        """
        members, donors, version = self.members.topology, self.members.donors, None
        if self._is_lockstep:
            result = self._barrier.result(own.interval)
            if result is None:
                return None
            if result.is_timed_out:
                return ExchangeOutcome.BARRIER_TIMEOUT
            members, donors, version = result.members, result.donors, own.interval
        return self.index.select_donors(
            own,
            members=members,
            donors=donors,
            limit=staleness_limit(self._config.staleness, num_intervals=self.num_intervals),
            count=self._num_donors(own, members),
            version=version,
        )

    def _num_donors(self, own: SnapshotInfo, members: Places) -> int:
        """Return the most snapshots that a network takes at once, as `exchange.num_donors` describes."""
        limit, topology = self._config.exchange.donor_limit, self._config.topology
        if limit < ALL_DONORS or topology.name in WHOLE_TOPOLOGIES:
            return limit
        return num_neighbors(topology, members, own.network_id, round=own.interval, seed=self._config.seed)

    # Barriers and admission.

    def arrive(self, network_id: int, interval: int, *, now: float) -> None:
        """Record that a network waits at the barrier of an interval. Without effect in async mode."""
        if self._is_lockstep:
            self._barrier.arrive(network_id, interval, now=now)

    def is_released(self, interval: int) -> bool:
        """Return whether the barrier of an interval was released."""
        return self._barrier.result(interval) is not None

    def expected(self) -> list[int]:
        """Return the ids of the members that the next barrier waits for."""
        return [network_id for network_id in self.members.active() if network_id not in self._held]

    def hold(self, network_id: int) -> None:
        """Keep a network out until it is admitted. No barrier waits for it, and it has no work that could be lost."""
        self._held.add(network_id)

    def is_held(self, network_id: int) -> bool:
        """Return whether a network has not been admitted yet."""
        return network_id in self._held

    def join(self, network_id: int) -> JoinPoint[T] | None:
        """Admit a network that has started.

        Args:
            network_id: Id of the network.

        Returns:
            The point where it begins. None in lockstep while others train: a later release admits it.
        """
        self.hold(network_id)
        if self._is_lockstep and self.expected():
            if network_id not in self._joining:
                self._joining.append(network_id)
            return None
        self._held.discard(network_id)
        point = self.join_point(network_id)
        self._barrier.reopen(after=point.interval)
        return point

    def parent(self, network_id: int) -> PublishedSnapshot[T] | None:
        """Return the snapshot that a network may be cloned from, that of the most advanced donor, or None."""
        return self.index.select_parent(network_id, members=self.members.topology, donors=self.members.donors)

    def is_joining(self, network_id: int) -> bool:
        """Return whether a network waits for a release to join."""
        return network_id in self._joining

    def join_point(self, network_id: int) -> JoinPoint[T]:
        """Return where a joining network begins: with the most advanced member, as a clone of it if so configured."""
        donors, parent = self.members.donors, self.parent(network_id)
        if parent is None:
            return JoinPoint(interval=max((self.interval(donor) for donor in donors if donor != network_id), default=0))
        is_cloned = self._config.population.init_new_networks == "clone"
        return JoinPoint(interval=parent.origin.interval, parent=parent if is_cloned else None)

    def release_barriers(self, *, now: float) -> Release[T]:
        """Release every barrier that can be released, and admit the networks that wait to join.

        Args:
            now: Seconds of the clock that `publish` uses.
        """
        if not self._is_lockstep:
            return Release()
        released = [
            interval
            for interval in self._barrier.waiting()
            if self._barrier.try_release(interval, expected=self.expected(), members=self.members, now=now) is not None
        ]
        for interval in released:
            self.index.drop_before(interval)
        joins: dict[int, JoinPoint[T]] = {}
        if released or not self.expected():
            joins = {network_id: self.join_point(network_id) for network_id in self._joining}
            if joins and not self.expected():
                self._barrier.reopen(after=min(point.interval for point in joins.values()))
            self._held -= joins.keys()
            self._joining.clear()
        return Release(intervals=tuple(released), joins=joins)

    # Life of a member.

    def mark_started(self, network_id: int, *, interval: int) -> None:
        """Record that the process of a network has started, with so many intervals completed."""
        self.members.mark_started(network_id, interval=interval)
        self.record_interval(network_id, interval)

    def begin_training(self, network_id: int) -> None:
        """Set a member to training, unless it was asked to leave meanwhile."""
        if self.members[network_id].state is not MemberState.LEAVING:
            self.members.set_state(network_id, MemberState.TRAINING)

    def has_work(self, network_id: int) -> bool:
        """Return whether a member trains, so that its process may hold work that no checkpoint has."""
        has_process = self.members[network_id].state not in (MemberState.STARTING, MemberState.LOST)
        return has_process and not self.is_held(network_id)

    def leave(self, network_id: int) -> bool:
        """Ask a member to leave.

        Args:
            network_id: Id of the network.

        Returns:
            Whether it finishes its interval first. A member without work is retired at once.
        """
        has_work = self.has_work(network_id)
        self.members.set_state(network_id, MemberState.LEAVING if has_work else MemberState.RETIRED)
        return has_work

    def lose(self, network_id: int) -> MemberRecord:
        """Record that the process of a member died. Its snapshots died with it."""
        member = self.members.set_state(network_id, MemberState.LOST)
        self.forget(network_id)
        return member

    def forget(self, network_id: int, *, keep_snapshots: bool = False) -> None:
        """Forget what the process of a network held: arrivals, a wait to join, and its snapshots.

        Args:
            network_id: Id of the network.
            keep_snapshots: lockstep: snapshots stay until the next release, so that others can still fetch them.
        """
        self._barrier.forget(network_id)
        self._held.discard(network_id)
        if network_id in self._joining:
            self._joining.remove(network_id)
        if not keep_snapshots:
            self.index.remove(network_id)

    def retire_never_started(self) -> tuple[int, ...]:
        """Retire the active members that were never placed, once no other member trains any more.

        Whether a member was ever placed is saved with the members, so that a restarted coordinator knows it too.

        Returns:
            Ids of the retired members.
        """
        active = self.members.active()
        has_any_started = any(member.ever_started for member in self.members if not member.is_guest)
        if not has_any_started or any(self.members[network_id].ever_started for network_id in active):
            return ()
        for network_id in active:
            self.members.set_state(network_id, MemberState.RETIRED)
        return active

    def check_heartbeats(self, silent_seconds: Mapping[int, float], *, lease_seconds: float) -> SilentMembers:
        """Mark members that were silent for a lease as stalled, and select those that were silent for three.

        Guests that were silent for three leases are gone, and their snapshots are removed.

        Args:
            silent_seconds: Seconds since the last sign of life, by id.
            lease_seconds: Length of a lease.
        """
        lost_donors, hanging, gone = [], [], []
        for member in self.members:
            silent = silent_seconds.get(member.id, 0.0)
            if member.is_guest and member.state in CONTACT_STATES and silent > 3 * lease_seconds:
                gone.append(member.id)
                self.members.set_state(member.id, MemberState.GONE)
                self.forget(member.id)
            elif member.state is MemberState.DONE and silent > 3 * lease_seconds:
                lost_donors.append(member.id)
            elif member.state in CONTACT_STATES and silent > 3 * lease_seconds:
                hanging.append(member.id)
            elif member.state is MemberState.TRAINING and silent > lease_seconds:
                self.members.set_state(member.id, MemberState.STALLED)
        return SilentMembers(lost_donors=tuple(lost_donors), hanging=tuple(hanging), gone=tuple(gone))

    def is_starved(self) -> bool:
        """Return whether all active members wait to be placed, so that finished ones should make room."""
        active = self.members.active()
        states = [self.members[network_id].state for network_id in active]
        return bool(active) and all(state is MemberState.STARTING for state in states)
