"""A guest's connection to a run: the exchange of snapshots, and its calls to the coordinator."""

from __future__ import annotations

import contextlib
import logging
from typing import Protocol

import ray
from ray.actor import ActorProxy
from ray.exceptions import GetTimeoutError, RayError

from inarch.actors.coordinator_api import GuestApi
from inarch.actors.messages import Command, ExitReason, References
from inarch.actors.network.exchange_client import ExchangeClient
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.state.snapshot import Snapshot

SIGN_OFF_SECONDS = 5.0
"""Longest wait for the coordinator when a guest leaves. Without an answer, its lease ends the membership."""

logger = logging.getLogger("inarch")


class GuestCalls(Protocol):
    """Calls of one guest to the coordinator. Each has a deadline and raises nothing."""

    def parent(self, *, seconds: float) -> PublishedSnapshot[References] | None:
        """Return the newest snapshot of the most advanced other member. None: there is none, or no answer.

        Args:
            seconds: Longest wait.
        """
        ...

    def sign_off(self, outcome: ExitReason, *, seconds: float) -> None:
        """Give up the membership.

        Args:
            outcome: DONE or STOPPED.
            seconds: Longest wait.
        """
        ...


class RayGuestCalls:
    """The calls on Ray."""

    def __init__(self, coordinator: ActorProxy[GuestApi], network_id: int, incarnation: int) -> None:
        """Create the calls of one guest.

        Args:
            coordinator: Handle of the coordinator.
            network_id: Id of the guest.
            incarnation: Number of its process.
        """
        self._coordinator, self._network_id, self._incarnation = coordinator, network_id, incarnation

    def parent(self, *, seconds: float) -> PublishedSnapshot[References] | None:
        """Return the newest snapshot of the most advanced other member."""
        try:
            return ray.get(self._coordinator.parent.remote(self._network_id, self._incarnation), timeout=seconds)
        except (RayError, GetTimeoutError):
            return None

    def sign_off(self, outcome: ExitReason, *, seconds: float) -> None:
        """Give up the membership."""
        with contextlib.suppress(RayError, GetTimeoutError):
            call = self._coordinator.sign_off.remote(self._network_id, self._incarnation, outcome)
            ray.get(call, timeout=seconds)


class GuestSession:
    """One process of a guest in a run."""

    def __init__(self, client: ExchangeClient, calls: GuestCalls, *, fetch_seconds: float) -> None:
        """Create the session.

        Args:
            client: Publishes and fetches snapshots, and sends heartbeats.
            calls: The guest's calls to the coordinator.
            fetch_seconds: Longest wait for a parent's weights.
        """
        self.client, self._calls, self._fetch_seconds = client, calls, fetch_seconds

    @property
    def must_end(self) -> bool:
        """Whether the coordinator has asked the guest to end, or a later process has taken its place."""
        return self.client.command is not Command.CONTINUE

    def parent(self) -> Snapshot | None:
        """Fetch the newest snapshot of the most advanced other member. None: there is none, or it did not arrive."""
        published = self._calls.parent(seconds=self._fetch_seconds)
        if published is None:
            return None
        snapshot = self.client.fetch_one(published, seconds=self._fetch_seconds)
        return None if isinstance(snapshot, ExchangeOutcome) else snapshot

    def leave(self, outcome: ExitReason) -> None:
        """Send what is left to send, and give up the membership.

        Args:
            outcome: DONE or STOPPED.
        """
        self.client.is_orphaned = False  # a coordinator that was silent for a lease may answer again
        self.client.flush(seconds=SIGN_OFF_SECONDS)
        self.client.close()
        self._calls.sign_off(outcome, seconds=SIGN_OFF_SECONDS)
        self.client.drop_snapshots()
