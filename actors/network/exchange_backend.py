"""What an exchange client needs of the coordinator and the object store, and how Ray provides it."""

from __future__ import annotations

import contextlib
from typing import Protocol

import numpy as np
import ray
from ray import ObjectRef
from ray.actor import ActorProxy
from ray.exceptions import GetTimeoutError, RayError

from inarch.actors.coordinator_api import CoordinatorApi
from inarch.actors.messages import Command, References
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.snapshot_info import SnapshotInfo


class ExchangeBackend(Protocol):
    """Calls to the coordinator and the object store. Each has a deadline and raises nothing."""

    def post(
        self, reports: list[IntervalReport], snapshot: PublishedSnapshot[References] | None, *, seconds: float
    ) -> Command | None:
        """Send reports and a snapshot to the coordinator.

        Args:
            reports: Reports, oldest first.
            snapshot: Newest snapshot. None: nothing new.
            seconds: Longest wait.

        Returns:
            What the network is to do. None if the coordinator did not answer.
        """
        ...

    def ask(
        self, own: SnapshotInfo, *, seconds: float
    ) -> tuple[PublishedSnapshot[References], ...] | ExchangeOutcome | None:
        """Ask the coordinator for snapshots.

        Args:
            own: Progress of the network.
            seconds: Longest wait.

        Returns:
            Snapshots, or the reason why there are none. None if the coordinator did not answer.
        """
        ...

    def put(self, buffer: np.ndarray) -> References | None:
        """Put a snapshot's bytes into the object store.

        Args:
            buffer: Shape (bytes,), uint8. It is copied.

        Returns:
            A reference in a list. None if the store is full.
        """
        ...

    def get(self, references: References, *, seconds: float) -> np.ndarray | ExchangeOutcome:
        """Fetch a snapshot's bytes.

        Args:
            references: A reference in a list.
            seconds: Longest wait.

        Returns:
            A read-only view of the store's memory, shape (bytes,), uint8, or the reason why the bytes did not come.
        """
        ...

    def wait(self, references: list[References], *, seconds: float) -> None:
        """Bring the bytes of several snapshots to this node at once.

        Args:
            references: A reference in a list, for each snapshot.
            seconds: Longest wait.
        """
        ...

    def withdraw(self, origin: SnapshotInfo) -> None:
        """Report a snapshot whose owner is gone to the coordinator, without waiting.

        Args:
            origin: The snapshot.
        """
        ...


class RayExchangeBackend:
    """The backend on Ray."""

    def __init__(self, coordinator: ActorProxy[CoordinatorApi], network_id: int, incarnation: int) -> None:
        """Create the backend of one network.

        Args:
            coordinator: Handle of the coordinator.
            network_id: Id of the network.
            incarnation: Number of its process.
        """
        self._coordinator, self._network_id, self._incarnation = coordinator, network_id, incarnation

    def post(
        self, reports: list[IntervalReport], snapshot: PublishedSnapshot[References] | None, *, seconds: float
    ) -> Command | None:
        """Send reports and a snapshot to the coordinator."""
        call = self._coordinator.post.remote(self._network_id, self._incarnation, reports, snapshot)
        try:
            return ray.get(call, timeout=seconds)
        except (RayError, GetTimeoutError):
            return None

    def ask(
        self, own: SnapshotInfo, *, seconds: float
    ) -> tuple[PublishedSnapshot[References], ...] | ExchangeOutcome | None:
        """Ask the coordinator for snapshots."""
        try:
            return ray.get(self._coordinator.ask.remote(own), timeout=seconds)
        except (RayError, GetTimeoutError):
            return None

    def put(self, buffer: np.ndarray) -> References | None:
        """Put a snapshot's bytes into the object store."""
        try:
            return [ray.put(buffer)]
        except RayError:  # a full store costs an exchange, not the network
            return None

    def get(self, references: References, *, seconds: float) -> np.ndarray | ExchangeOutcome:
        """Fetch a snapshot's bytes."""
        return fetch_buffer(references, seconds=seconds)

    def wait(self, references: list[References], *, seconds: float) -> None:
        """Bring the bytes of several snapshots to this node at once. A lost one is noticed when it is fetched."""
        with contextlib.suppress(RayError):
            ray.wait([reference for (reference,) in references], num_returns=len(references), timeout=seconds)

    def withdraw(self, origin: SnapshotInfo) -> None:
        """Report a snapshot whose owner is gone to the coordinator, without waiting."""
        self._coordinator.withdraw.remote(origin)


def fetch_buffer(references: References, *, seconds: float) -> np.ndarray | ExchangeOutcome:
    """Fetch a snapshot's bytes from the object store.

    Args:
        references: A reference in a list.
        seconds: Longest wait.

    Returns:
        A read-only view of the store's memory, shape (bytes,), uint8, or the reason why the bytes did not come.
    """
    reference: ObjectRef[np.ndarray] = references[0]
    try:
        return ray.get(reference, timeout=seconds)
    except GetTimeoutError:
        return ExchangeOutcome.LATE
    except RayError:
        return ExchangeOutcome.GONE
