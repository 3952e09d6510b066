"""The members of a population and their states. Ids are never reused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from inarch.population.errors import ConfigError


class MemberState(StrEnum):
    """Where a member stands."""

    STARTING = "starting"
    TRAINING = "training"
    LEAVING = "leaving"
    """Asked to go; finishes its interval."""
    STALLED = "stalled"
    """Alive, but not heard from for a lease time."""
    LOST = "lost"
    """Its process died; a new incarnation is on its way."""
    RETIRED = "retired"
    """Checkpointed and gone, as asked."""
    STOPPED = "stopped"
    """Checkpointed before its schedule ended, since the run was stopped."""
    FAILED = "failed"
    """Given up."""
    DONE = "done"
    """Finished its schedule; still a donor."""


ACTIVE = frozenset(
    {MemberState.STARTING, MemberState.TRAINING, MemberState.LEAVING, MemberState.STALLED, MemberState.LOST}
)
"""States of members that the run still waits for."""

DONORS = frozenset({MemberState.TRAINING, MemberState.LEAVING, MemberState.STALLED, MemberState.DONE})
"""States of members that have a snapshot to give."""

GONE = frozenset({MemberState.RETIRED, MemberState.FAILED, MemberState.STOPPED})
"""States of members that are in nobody's topology."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One member."""

    id: int
    incarnation: int = 1
    """How many processes it has had, this one included."""
    state: MemberState = MemberState.STARTING
    is_initial: bool = True
    restarts: int = 0
    """How often it was brought back since it last began further than before."""
    ever_started: bool = False
    """Whether it ever had a process: what it trained is worth waiting for."""
    began_interval: int = 0
    """At which its newest process began, or was found by a coordinator that came back."""


class Members:
    """All members, past ones too."""

    def __init__(self) -> None:
        self._members: dict[int, Member] = {}
        self._next_id = 0

    def __iter__(self) -> Iterator[Member]:
        return iter(sorted(self._members.values(), key=lambda member: member.id))

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, network_id: int) -> Member:
        return self._members[network_id]

    def __contains__(self, network_id: int) -> bool:
        return network_id in self._members

    def add(self, *, is_initial: bool) -> Member:
        """A new member with an id of its own."""
        member = Member(id=self._next_id, is_initial=is_initial)
        self._members[member.id] = member
        self._next_id += 1
        return member

    def restore(self, member: Member) -> None:
        """A member known from before, as it was."""
        self._members[member.id] = member
        self._next_id = max(self._next_id, member.id + 1)

    def set_state(self, network_id: int, state: MemberState) -> Member:
        """Put a member into a state; a member that is gone or done stays so."""
        member = self._members[network_id]
        if member.state not in GONE and not (member.state is MemberState.DONE and state in ACTIVE):
            member = replace(member, state=state)
            self._members[network_id] = member
        return member

    def restart(self, network_id: int) -> Member:
        """The next incarnation of a member whose process died."""
        member = self._members[network_id]
        member = replace(
            member,
            incarnation=member.incarnation + 1,
            restarts=member.restarts + 1,
            state=MemberState.STARTING,
        )
        self._members[network_id] = member
        return member

    def mark_started(self, network_id: int, *, interval: int) -> None:
        """A member's process is there, at an interval. Earlier deaths are forgiven if that is further than the process
        before began: intervals that are trained again and lost again are no progress."""
        member = self._members[network_id]
        restarts = 0 if interval > member.began_interval else member.restarts
        self._members[network_id] = replace(member, ever_started=True, restarts=restarts, began_interval=interval)

    def in_topology(self) -> tuple[int, ...]:
        """Ids of members that take part; starting and lost ones too, so that the others keep their neighbors."""
        return tuple(member.id for member in self if member.state not in GONE)

    def donors(self) -> tuple[int, ...]:
        """Ids of members whose snapshots may be given."""
        return tuple(member.id for member in self if member.state in DONORS)

    def active(self) -> tuple[int, ...]:
        """Ids of members that the run still waits for."""
        return tuple(member.id for member in self if member.state in ACTIVE)

    def counted(self) -> tuple[int, ...]:
        """Ids that count toward the population's size: active ones that were not asked to leave, and done ones."""
        kept = (ACTIVE | {MemberState.DONE}) - {MemberState.LEAVING}
        return tuple(member.id for member in self if member.state in kept)

    def num_to_add(self, size: int, *, max_size: int | None) -> int:
        """How many newcomers `size` asks for.

        Raises:
            ConfigError: size is below 1 or above max_size.
        """
        if size < 1:
            raise ConfigError(f"a population must have at least 1 network, got {size}")
        if max_size is not None and size > max_size:
            raise ConfigError(f"population.max_size is {max_size}, got {size}")
        return size - len(self.counted())

    def select_for_removal(self, count: int) -> tuple[int, ...]:
        """Which members go when the population shrinks: the youngest of those still training."""
        training = [network_id for network_id in self.counted() if network_id in self.active()]
        return tuple(reversed(training))[:count]
