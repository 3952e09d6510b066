"""The newest snapshot of each member, and what a network may take now, or the named reason why it may not.

Generic in what it holds: references to the object store in a run on Ray, the snapshots themselves in the simulator.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from inarch.population import topology
from inarch.population.config import TopologyConfig
from inarch.population.members import Members
from inarch.population.snapshot import Origin
from inarch.population.staleness import Age

T = TypeVar("T")


class Refusal(StrEnum):
    """Why a network took no scion this time. Counted in the history; never an error."""

    NO_NEIGHBOR = "no_neighbor"
    """It is alone, or its topology gives it nobody."""
    NOTHING_YET = "nothing_yet"
    """No neighbor has a snapshot."""
    TOO_OLD = "too_old"
    """Every snapshot trails by more than the limit."""
    STRUCTURE = "structure"
    """The scion is of another structure."""
    NOT_FINITE = "not_finite"
    """The scion holds NaN or infinity."""
    GONE = "gone"
    """The scion vanished with its owner."""
    LATE = "late"
    """The scion, or the coordinator's answer, had not arrived when it was needed."""
    BARRIER_TIMEOUT = "barrier_timeout"
    """lockstep: others did not reach the barrier before its deadline."""
    STOPPING = "stopping"
    """The run is being stopped."""


class PostOutcome(StrEnum):
    """What became of a snapshot that was posted."""

    TAKEN = "taken"
    OLDER = "older"
    """A newer one of the same network lies there already."""
    FENCED = "fenced"
    """A later incarnation of the network has posted."""


@dataclass(frozen=True, kw_only=True)
class Posting(Generic[T]):
    """A snapshot on the board."""

    origin: Origin
    information: tuple[float, ...]
    """Of each graft unit."""
    item: T
    """The snapshot, or a reference to it."""


class Board(Generic[T]):
    """Newest snapshots. `kept` versions of each network stay: lockstep needs two, since the first to leave a barrier
    may post its next version before the last has taken this one."""

    def __init__(self, config: TopologyConfig, *, seed: int = 0, kept: int = 1) -> None:
        self._config, self._seed, self._kept = config, seed, kept
        self._postings: dict[int, list[Posting[T]]] = {}

    def post(self, posting: Posting[T]) -> PostOutcome:
        """Put up a snapshot; an older one never replaces a newer one."""
        lying = self._postings.setdefault(posting.origin.network, [])
        if lying:
            newest = lying[-1].origin
            if posting.origin.incarnation < newest.incarnation:
                return PostOutcome.FENCED
            if posting.origin.incarnation == newest.incarnation and posting.origin.step <= newest.step:
                return PostOutcome.OLDER
            lying[:] = [old for old in lying if old.origin.step < posting.origin.step]
        lying.append(posting)
        del lying[: -self._kept]
        return PostOutcome.TAKEN

    def withdraw(self, network: int, *, incarnation: int | None = None) -> None:
        """Take down a network's snapshots: all, or those up to an incarnation."""
        lying = self._postings.get(network, [])
        lying[:] = [old for old in lying if incarnation is not None and old.origin.incarnation > incarnation]

    def prune(self, interval: int) -> None:
        """lockstep: drop versions before an interval whose barrier has opened; nobody asks for them again."""
        for lying in self._postings.values():
            lying[:] = [old for old in lying if old.origin.interval >= interval]

    def newest(self, network: int) -> Posting[T] | None:
        """A network's newest snapshot."""
        lying = self._postings.get(network)
        return lying[-1] if lying else None

    def offer(
        self,
        asker: Origin,
        *,
        members: Sequence[int],
        donors: Collection[int],
        limit: float,
        count: int = 1,
        version: int | None = None,
    ) -> tuple[Posting[T], ...] | Refusal:
        """What a network may take now.

        Args:
            asker: The network that asks, as it stands.
            members: Ids in the topology, the asker's among them.
            donors: Ids whose snapshots may be given.
            limit: Age in intervals above which a snapshot is too old.
            count: Snapshots wanted, of different donors.
            version: lockstep: the interval that all have completed, and only snapshots of it.

        Returns:
            The first admissible snapshots along the topology, or the reason why there is none.
        """
        order = topology.donors(self._config, members, asker.network, round=asker.interval, seed=self._seed)
        if not order:
            return Refusal.NO_NEIGHBOR
        found: list[Posting[T]] = []
        reason = Refusal.NOTHING_YET
        for donor in order:
            looked_at = self._look_at(donor, asker, limit, version) if donor in donors else Refusal.NOTHING_YET
            if isinstance(looked_at, Posting):
                found.append(looked_at)
            elif looked_at is not Refusal.NOTHING_YET:
                reason = looked_at
            if len(found) == count:
                break
        return tuple(found) or reason

    def _look_at(self, donor: int, asker: Origin, limit: float, version: int | None) -> Posting[T] | Refusal:
        """A donor's newest admissible snapshot, or why it has none."""
        reason = Refusal.NOTHING_YET
        for posting in reversed(self._postings.get(donor, [])):
            if version is not None and posting.origin.interval != version:
                continue
            if posting.origin.structure != asker.structure:
                reason = Refusal.STRUCTURE
            elif is_too_old(asker, posting.origin, limit=limit):
                reason = Refusal.TOO_OLD
            else:
                return posting
        return reason

    def parent(self, network: int, *, members: Sequence[int], donors: Collection[int]) -> Posting[T] | None:
        """What a newcomer is cloned from, and whose place in the schedule it takes: the furthest, nearest first."""
        order = topology.donors(self._config, members, network, round=0, seed=self._seed)
        others = [donor for donor in donors if donor not in order and donor != network]
        lying = [posting for donor in (*order, *others) if donor in donors and (posting := self.newest(donor))]
        return max(lying, key=lambda posting: posting.origin.interval, default=None)


def is_too_old(rootstock: Origin, scion: Origin, *, limit: float) -> bool:
    """Whether a scion trails by more than `limit` intervals. It is measured against no more training than the
    rootstock's place in the schedule: a straggler that has taken in what others trained, and trains on top of it, would
    otherwise outgrow those who have finished, and graft no more."""
    reached = min(rootstock.trained_intervals, rootstock.interval)
    return round(reached - scion.trained_intervals, 6) > limit


def trail(rootstock: Origin, scion: Origin) -> tuple[float, float]:
    """How far a scion trails in training, in intervals and in steps; 0 where it is ahead. To a millionth: training is
    summed by parts, and what trails by the limit itself must not be refused for the last bit of a sum."""
    return (
        round(max(0.0, rootstock.trained_intervals - scion.trained_intervals), 6),
        round(max(0.0, rootstock.trained_steps - scion.trained_steps), 6),
    )


def age_of(rootstock: Origin, scion: Origin, *, now: float) -> Age:
    """A scion's age for a rootstock: how far it trails, and how long ago it was made."""
    intervals, steps = trail(rootstock, scion)
    return Age(intervals=intervals, steps=steps, seconds=max(0.0, now - scion.made_seconds))


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How an interval's barrier opened, and who was there: all who pass it see the same topology."""

    is_timed_out: bool
    members: tuple[int, ...]
    """Ids in the topology."""
    donors: tuple[int, ...]
    """Ids whose snapshots may be given."""


class Barrier:
    """lockstep: an interval's exchange opens when every member that is expected has arrived, or at a deadline.

    Membership changes only when a barrier opens: who starts meanwhile is expected from the next one on. Who was missing
    at a deadline is late, and no barrier waits for it before it has reached the newest that is open.
    """

    def __init__(self, *, deadline_seconds: float) -> None:
        self._deadline = deadline_seconds
        self._reached: dict[int, int] = {}
        self._first_seconds: dict[int, float] = {}
        self._open: dict[int, Opening] = {}
        self._late: set[int] = set()

    def arrive(self, network: int, interval: int, *, now: float) -> None:
        """A member completed an interval and posted its version of it."""
        self._reached[network] = max(interval, self._reached.get(network, 0))
        if interval >= max(self._open, default=0):
            self._late.discard(network)
        self._first_seconds.setdefault(interval, now)

    def forget(self, network: int) -> None:
        """A member died: barriers that have not opened wait for it to arrive again."""
        self._reached.pop(network, None)

    def try_open(self, interval: int, *, expected: Collection[int], members: Members, now: float) -> Opening | None:
        """Open the barrier if all who are expected have arrived or its deadline has passed; None while it is closed."""
        if interval not in self._open:
            missing = {network for network in expected if self._reached.get(network, 0) < interval} - self._late
            is_timed_out = now - self._first_seconds.get(interval, now) >= self._deadline
            if not missing or is_timed_out:
                self._late |= missing
                self._open[interval] = Opening(
                    is_timed_out=bool(missing), members=members.in_topology(), donors=members.donors()
                )
        return self._open.get(interval)

    def waiting(self) -> list[int]:
        """Intervals at whose barrier somebody waits."""
        return [interval for interval in self._first_seconds if interval not in self._open]

    def opening(self, interval: int) -> Opening | None:
        """How an interval's barrier opened; None while it is closed."""
        return self._open.get(interval)
