"""The newest snapshot of each member, and what a network may take now, or the named reason why it may not.

Generic in what it holds: references to the object store in a run on Ray, the snapshots themselves in the simulator.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from inarch.population.config import TopologyConfig
from inarch.population.membership import topology
from inarch.population.membership.outcome import Refusal
from inarch.population.membership.staleness import is_too_old
from inarch.population.state.snapshot import Origin

T = TypeVar("T")


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
