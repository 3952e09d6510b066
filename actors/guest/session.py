"""A guest's connection to a run: its place there, and the exchange of snapshots."""

from __future__ import annotations

import contextlib
import logging
from typing import cast

import ray
from ray.actor import ActorProxy
from ray.exceptions import GetTimeoutError, RayError

from inarch.actors.coordinator_api import CoordinatorApi, GuestApi
from inarch.actors.messages import Command, Enrollment, ExitReason
from inarch.actors.network.exchange_backend import RayExchangeBackend
from inarch.actors.network.exchange_client import ExchangeClient, fetch
from inarch.population.config import RunConfig
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.state.snapshot import Layout, Snapshot

SIGN_OFF_SECONDS = 5.0
"""Longest wait for the coordinator when a guest leaves. Without an answer, its lease ends the membership."""

logger = logging.getLogger("inarch")


class GuestSession:
    """One process of a guest in a run."""

    def __init__(
        self, coordinator: ActorProxy[GuestApi], enrollment: Enrollment, config: RunConfig, layout: Layout
    ) -> None:
        """Begin to send heartbeats.

        Args:
            coordinator: Handle of the coordinator.
            enrollment: The guest's place in the run.
            config: Configuration of the run.
            layout: Layout of its snapshots.
        """
        self._coordinator, self.enrollment, self.config, self._layout = coordinator, enrollment, config, layout
        own = cast("ActorProxy[CoordinatorApi]", coordinator)  # a proxy is not covariant in its class
        backend = RayExchangeBackend(own, enrollment.network_id, enrollment.incarnation)
        self.client = ExchangeClient(backend, config, layout, logger=logger)

    @property
    def command(self) -> Command:
        """Newest command of the coordinator."""
        return self.client.command

    def parent(self) -> Snapshot | None:
        """Fetch the newest snapshot of the most advanced other member. None: there is none, or it did not arrive."""
        seconds = self.config.timeouts.fetch_seconds
        call = self._coordinator.parent.remote(self.enrollment.network_id, self.enrollment.incarnation)
        try:
            published = ray.get(call, timeout=seconds)
        except (RayError, GetTimeoutError):
            return None
        if published is None:
            return None
        snapshot = fetch(published, self._layout, seconds=seconds)
        return None if isinstance(snapshot, ExchangeOutcome) else snapshot

    def leave(self, outcome: ExitReason) -> None:
        """Send what is left to send, and give up the membership.

        Args:
            outcome: DONE or STOPPED.
        """
        self.client.flush(seconds=SIGN_OFF_SECONDS)
        self.client.close()
        network_id, incarnation = self.enrollment.network_id, self.enrollment.incarnation
        with contextlib.suppress(RayError, GetTimeoutError):
            ray.get(self._coordinator.sign_off.remote(network_id, incarnation, outcome), timeout=SIGN_OFF_SECONDS)
