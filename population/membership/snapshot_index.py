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
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.staleness import is_too_stale
from inarch.population.state.snapshot import SnapshotInfo

T = TypeVar("T")


class PostOutcome(StrEnum):
    """What became of a snapshot that was posted."""

    TAKEN = "taken"
    OLDER = "older"
    """A newer one of the same network lies there already."""
    FENCED = "fenced"
    """A later incarnation of the network has posted."""


@dataclass(frozen=True, kw_only=True)
class PublishedSnapshot(Generic[T]):
    """A snapshot on the board."""

    origin: SnapshotInfo
    information: tuple[float, ...]
    """Of each graft unit."""
    payload: T
    """The snapshot, or a reference to it."""


class SnapshotIndex(Generic[T]):
    """Newest snapshots. `num_versions` versions of each network stay: lockstep needs two, since the first to leave a barrier
    may post its next version before the last has taken this one."""

    def __init__(self, config: TopologyConfig, *, seed: int = 0, num_versions: int = 1) -> None:
        self._config, self._seed, self._num_versions = config, seed, num_versions
        self._snapshots: dict[int, list[PublishedSnapshot[T]]] = {}

    def publish(self, snapshot: PublishedSnapshot[T]) -> PostOutcome:
        """Put up a snapshot; an older one never replaces a newer one."""
        versions = self._snapshots.setdefault(snapshot.origin.network_id, [])
        if versions:
            newest = versions[-1].origin
            if snapshot.origin.incarnation < newest.incarnation:
                return PostOutcome.FENCED
            if snapshot.origin.incarnation == newest.incarnation and snapshot.origin.step <= newest.step:
                return PostOutcome.OLDER
            versions[:] = [old for old in versions if old.origin.step < snapshot.origin.step]
        versions.append(snapshot)
        del versions[: -self._num_versions]
        return PostOutcome.TAKEN

    def remove(self, network_id: int, *, incarnation: int | None = None) -> None:
        """Take down a network's snapshots: all, or those up to an incarnation."""
        versions = self._snapshots.get(network_id, [])
        versions[:] = [old for old in versions if incarnation is not None and old.origin.incarnation > incarnation]

    def drop_before(self, interval: int) -> None:
        """lockstep: drop versions before an interval whose barrier has opened; nobody asks for them again."""
        for versions in self._snapshots.values():
            versions[:] = [old for old in versions if old.origin.interval >= interval]

    def newest(self, network_id: int) -> PublishedSnapshot[T] | None:
        """A network's newest snapshot."""
        versions = self._snapshots.get(network_id)
        return versions[-1] if versions else None

    def select_donors(
        self,
        asker: SnapshotInfo,
        *,
        members: Sequence[int],
        donors: Collection[int],
        limit: float,
        count: int = 1,
        version: int | None = None,
    ) -> tuple[PublishedSnapshot[T], ...] | ExchangeOutcome:
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
        order = topology.donors(self._config, members, asker.network_id, round=asker.interval, seed=self._seed)
        if not order:
            return ExchangeOutcome.NO_NEIGHBOR
        donors_found: list[PublishedSnapshot[T]] = []
        reason = ExchangeOutcome.NOTHING_YET
        for donor in order:
            looked_at = self._look_at(donor, asker, limit, version) if donor in donors else ExchangeOutcome.NOTHING_YET
            if isinstance(looked_at, PublishedSnapshot):
                donors_found.append(looked_at)
            elif looked_at is not ExchangeOutcome.NOTHING_YET:
                reason = looked_at
            if len(donors_found) == count:
                break
        return tuple(donors_found) or reason

    def _look_at(
        self, donor: int, asker: SnapshotInfo, limit: float, version: int | None
    ) -> PublishedSnapshot[T] | ExchangeOutcome:
        """A donor's newest admissible snapshot, or why it has none."""
        reason = ExchangeOutcome.NOTHING_YET
        for snapshot in reversed(self._snapshots.get(donor, [])):
            if version is not None and snapshot.origin.interval != version:
                continue
            if snapshot.origin.structure != asker.structure:
                reason = ExchangeOutcome.STRUCTURE
            elif is_too_stale(asker, snapshot.origin, limit=limit):
                reason = ExchangeOutcome.TOO_STALE
            else:
                return snapshot
        return reason

    def select_parent(
        self, network_id: int, *, members: Sequence[int], donors: Collection[int]
    ) -> PublishedSnapshot[T] | None:
        """What a newcomer is cloned from, and whose place in the schedule it takes: the furthest, nearest first."""
        order = topology.donors(self._config, members, network_id, round=0, seed=self._seed)
        others = [donor for donor in donors if donor not in order and donor != network_id]
        versions = [snapshot for donor in (*order, *others) if donor in donors and (snapshot := self.newest(donor))]
        return max(versions, key=lambda snapshot: snapshot.origin.interval, default=None)
