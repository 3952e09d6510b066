"""The members of a population and their states. Ids are never reused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from inarch.population.errors import ConfigError
from inarch.population.membership.topology import Places


class MemberState(StrEnum):
    """State of a member."""

    STARTING = "starting"
    """Its process is being created."""
    TRAINING = "training"
    LEAVING = "leaving"
    """It was asked to leave and finishes its interval."""
    STALLED = "stalled"
    """No sign of life for a lease."""
    LOST = "lost"
    """Its process died. A new incarnation is about to start."""
    RETIRED = "retired"
    """It left as asked, after a checkpoint."""
    STOPPED = "stopped"
    """It was stopped with the run, after a checkpoint and before the end of its schedule."""
    FAILED = "failed"
    """It failed for good."""
    DONE = "done"
    """It finished its schedule. It stays available as a donor."""
    GONE = "gone"
    """A guest that was silent for three leases. It is a member again as soon as it calls."""


ACTIVE = frozenset(
    {MemberState.STARTING, MemberState.TRAINING, MemberState.LEAVING, MemberState.STALLED, MemberState.LOST}
)
"""States of members that train, or are about to."""

DONORS = frozenset({MemberState.TRAINING, MemberState.LEAVING, MemberState.STALLED, MemberState.DONE})
"""States of members whose snapshots may be fetched."""

OUTSIDE = frozenset({MemberState.RETIRED, MemberState.FAILED, MemberState.STOPPED, MemberState.GONE})
"""States of members outside the topology."""


@dataclass(frozen=True, kw_only=True)
class MemberRecord:
    """What is recorded of one member."""

    id: int
    incarnation: int = 1
    """Number of its present process, counted from 1."""
    state: MemberState = MemberState.STARTING
    is_initial: bool = True
    """Whether it started with the run. Other members join later."""
    restarts: int = 0
    """Restarts since it last started from a later interval than before."""
    ever_started: bool = False
    """Whether it ever had a process."""
    name: str | None = None
    """Name of a guest: a training loop of the caller's own that has joined the run. None: a network of the run."""
    began_interval: int = 0
    """Interval at which its newest process started, or was found by a restarted coordinator."""
    is_paused: bool = False
    """Whether it has given its place to another network and stays available as a donor."""

    @property
    def is_guest(self) -> bool:
        """Whether it is a training loop of the caller's own, and not a network of the run."""
        return self.name is not None


class Members:
    """All members of a run, past ones too."""

    def __init__(self) -> None:
        """Create an empty population."""
        self._members: dict[int, MemberRecord] = {}
        self._next_id = 0
        self._ids, self._active = Places(), Places()
        self.topology = Places()
        """Members in the topology. Starting and lost members are among them, so that others keep their place."""
        self.donors = Places()
        """Members whose snapshots may be fetched."""

    def _put(self, member: MemberRecord) -> MemberRecord:
        """Store the record of a member."""
        self._members[member.id] = member
        self._ids.put(member.id, is_in=True)
        self.topology.put(member.id, is_in=member.state not in OUTSIDE)
        is_between_turns = member.is_paused and member.state is MemberState.STARTING
        self.donors.put(member.id, is_in=member.state in DONORS or is_between_turns)
        self._active.put(member.id, is_in=member.state in ACTIVE and not member.is_guest)
        return member

    def __iter__(self) -> Iterator[MemberRecord]:
        return iter([self._members[network_id] for network_id in self._ids])

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, network_id: int) -> MemberRecord:
        return self._members[network_id]

    def __contains__(self, network_id: int) -> bool:
        return network_id in self._members

    def add(self, *, is_initial: bool) -> MemberRecord:
        """Add a member with a new id."""
        member = MemberRecord(id=self._next_id, is_initial=is_initial)
        self._next_id += 1
        return self._put(member)

    @property
    def guests(self) -> tuple[MemberRecord, ...]:
        """The guests, whatever their state."""
        return tuple(member for member in self if member.is_guest)

    def enroll(self, name: str) -> MemberRecord:
        """Add a guest, or begin the next incarnation of the guest of this name.

        Args:
            name: Name of the guest.
        """
        known = next((member for member in self.guests if member.name == name), None)
        if known is None:
            member = replace(self.add(is_initial=False), name=name)
        else:
            member = replace(known, incarnation=known.incarnation + 1)
        return self._put(replace(member, state=MemberState.TRAINING, ever_started=True))

    def readmit(self, network_id: int) -> None:
        """Let a guest that was gone take part again."""
        if self._members[network_id].state is MemberState.GONE:
            self._put(replace(self._members[network_id], state=MemberState.TRAINING))

    def restore(self, member: MemberRecord) -> None:
        """Add a member from a record, as it was."""
        self._put(member)
        self._next_id = max(self._next_id, member.id + 1)

    def set_state(self, network_id: int, state: MemberState) -> MemberRecord:
        """Set the state of a member. A member that is gone keeps its state. A done one does not become active again."""
        member = self._members[network_id]
        if member.state not in OUTSIDE and not (member.state is MemberState.DONE and state in ACTIVE):
            member = self._put(replace(member, state=state))
        return member

    def restart(self, network_id: int) -> MemberRecord:
        """Begin the next incarnation of a member whose process died."""
        member = self._members[network_id]
        return self._put(
            replace(
                member,
                incarnation=member.incarnation + 1,
                restarts=member.restarts + 1,
                state=MemberState.STARTING,
            )
        )

    def move(self, network_id: int, *, is_paused: bool = False) -> MemberRecord:
        """Begin the next incarnation of a member that gave up its place as intended. That is no restart.

        Args:
            network_id: Id of the member.
            is_paused: Whether its last snapshot may be fetched until its next process has started.
        """
        member = self._members[network_id]
        incarnation = member.incarnation + 1
        return self._put(replace(member, incarnation=incarnation, state=MemberState.STARTING, is_paused=is_paused))

    def mark_started(self, network_id: int, *, interval: int) -> None:
        """Record that a member's process has started.

        Earlier restarts are forgiven if it starts from a later interval than the process before. Intervals that are
        trained again and lost again are no progress.

        Args:
            network_id: Id of the member.
            interval: Intervals completed at the start.
        """
        member = self._members[network_id]
        restarts = 0 if interval > member.began_interval else member.restarts
        self._put(replace(member, ever_started=True, restarts=restarts, began_interval=interval, is_paused=False))

    def active(self) -> tuple[int, ...]:
        """Return the ids of the run's own networks that it waits for. It does not wait for guests."""
        return tuple(self._active)

    def active_guests(self) -> tuple[int, ...]:
        """Return the ids of the guests that take part."""
        return tuple(member.id for member in self.guests if member.state in ACTIVE)

    def counted(self) -> tuple[int, ...]:
        """Return the ids that count toward the population's size: own networks that stay, and done ones."""
        states = (ACTIVE | {MemberState.DONE}) - {MemberState.LEAVING}
        return tuple(member.id for member in self if member.state in states and not member.is_guest)

    def num_to_add(self, size: int, *, max_size: int | None) -> int:
        """Return how many members must be added to reach a size. Negative if members must leave.

        Args:
            size: Wanted number of networks.
            max_size: Most networks. None: no limit.

        Raises:
            ConfigError: The size is below 1 or above max_size.
        """
        if size < 1:
            raise ConfigError(f"a population must have at least 1 network, got {size}")
        if max_size is not None and size > max_size:
            raise ConfigError(f"population.max_size is {max_size}, got {size}")
        return size - len(self.counted())

    def select_for_removal(self, count: int) -> tuple[int, ...]:
        """Return the ids of the members that leave when the population shrinks: the youngest active ones."""
        training = [network_id for network_id in self.counted() if network_id in self.active()]
        return tuple(reversed(training))[:count]
