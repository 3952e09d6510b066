"""The newest snapshots of each member, and which of them a network may fetch.

The payload is generic: references to the object store in a run on Ray, the snapshots themselves in the simulator.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Generic, TypeVar

from inarch.population.config import TopologyConfig
from inarch.population.membership import topology
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.staleness import is_too_stale
from inarch.population.membership.topology import Places
from inarch.population.state.snapshot_info import SnapshotInfo

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PublishedSnapshot(Generic[T]):
    """A snapshot in the index."""

    origin: SnapshotInfo
    """The network that published it, and its training progress."""
    information: tuple[float, ...]
    """Information of each graft unit."""
    payload: T
    """The snapshot, or a reference to it."""
    nbytes: int = 0
    """Bytes of the snapshot in the object store."""


class SnapshotIndex(Generic[T]):
    """The newest snapshots of each member."""

    def __init__(self, config: TopologyConfig, *, seed: int = 0, num_versions: int = 1) -> None:
        """Create an empty index.

        Args:
            config: The topology.
            seed: Seed of random topologies.
            num_versions: Versions kept of each member. Lockstep needs two, because the first network to leave a barrier
                may publish its next version before the last has fetched this one.
        """
        self._config, self._seed, self._num_versions = config, seed, num_versions
        self._snapshots: dict[int, list[PublishedSnapshot[T]]] = {}

    def publish(self, snapshot: PublishedSnapshot[T]) -> bool:
        """Add a snapshot, unless a newer one of the same network or one of a later incarnation is there.

        Args:
            snapshot: The snapshot.

        Returns:
            Whether it was added.
        """
        versions = self._snapshots.setdefault(snapshot.origin.network_id, [])
        if versions:
            newest = versions[-1].origin
            if snapshot.origin.incarnation < newest.incarnation:
                return False
            if snapshot.origin.incarnation == newest.incarnation and snapshot.origin.step <= newest.step:
                return False
            versions[:] = [old for old in versions if old.origin.step < snapshot.origin.step]
        versions.append(snapshot)
        del versions[: -self._num_versions]
        return True

    def remove(self, network_id: int, *, incarnation: int | None = None) -> None:
        """Remove the snapshots of a network.

        Args:
            network_id: Id of the network.
            incarnation: Remove only those of this incarnation and earlier ones. None: all.
        """
        versions = self._snapshots.get(network_id, [])
        versions[:] = [old for old in versions if incarnation is not None and old.origin.incarnation > incarnation]

    def drop_before(self, interval: int) -> None:
        """Drop the versions before an interval whose barrier was released. No network fetches them any more."""
        for versions in self._snapshots.values():
            versions[:] = [old for old in versions if old.origin.interval >= interval]

    def newest(self, network_id: int) -> PublishedSnapshot[T] | None:
        """Return the newest snapshot of a network, or None."""
        versions = self._snapshots.get(network_id)
        return versions[-1] if versions else None

    def select_donors(
        self,
        own: SnapshotInfo,
        *,
        members: Places,
        donors: Collection[int],
        limit: float,
        count: int = 1,
        version: int | None = None,
    ) -> tuple[PublishedSnapshot[T], ...] | ExchangeOutcome:
        """Select the snapshots that a network may fetch.

        Args:
            own: Progress of the network.
            members: Members in the topology, the network among them.
            donors: Ids whose snapshots may be fetched.
            limit: Staleness in intervals above which a snapshot is refused.
            count: Most snapshots, each of another donor.
            version: lockstep: only snapshots of this interval.

        Returns:
            The first admissible snapshots along the topology, or the reason why there is none.
        """
        selected: list[PublishedSnapshot[T]] = []
        reason = ExchangeOutcome.NO_NEIGHBOR
        for donor in topology.donors(self._config, members, own.network_id, round=own.interval, seed=self._seed):
            reason = ExchangeOutcome.NOTHING_YET if reason is ExchangeOutcome.NO_NEIGHBOR else reason
            candidate = ExchangeOutcome.NOTHING_YET
            if donor in donors:
                candidate = self._newest_admissible(donor, own, limit, version)
            if isinstance(candidate, PublishedSnapshot):
                selected.append(candidate)
            elif candidate is not ExchangeOutcome.NOTHING_YET:
                reason = candidate
            if len(selected) == count:
                break
        return tuple(selected) or reason

    def _newest_admissible(
        self, donor: int, own: SnapshotInfo, limit: float, version: int | None
    ) -> PublishedSnapshot[T] | ExchangeOutcome:
        """Return a donor's newest admissible snapshot, or the reason why it has none."""
        reason = ExchangeOutcome.NOTHING_YET
        for snapshot in reversed(self._snapshots.get(donor, [])):
            if version is not None and snapshot.origin.interval != version:
                continue
            if snapshot.origin.structure != own.structure:
                reason = ExchangeOutcome.STRUCTURE
            elif is_too_stale(own, snapshot.origin, limit=limit):
                reason = ExchangeOutcome.TOO_STALE
            else:
                return snapshot
        return reason

    def select_parent(
        self, network_id: int, *, members: Places, donors: Collection[int]
    ) -> PublishedSnapshot[T] | None:
        """Select the snapshot that a joining network is cloned from: the most advanced, and of equals the nearest.

        Args:
            network_id: Id of the joining network.
            members: Members in the topology, the network among them.
            donors: Ids whose snapshots may be used.
        """
        order = list(topology.donors(self._config, members, network_id, round=0, seed=self._seed))
        reached = {network_id, *order}
        others = [donor for donor in donors if donor not in reached]
        newest = [snapshot for donor in (*order, *others) if donor in donors and (snapshot := self.newest(donor))]
        return max(newest, key=lambda snapshot: snapshot.origin.interval, default=None)
