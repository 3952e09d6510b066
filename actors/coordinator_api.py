"""The calls that networks make to the coordinator actor, as types.

A network holds the coordinator's handle without importing its class, which lies above it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import ray

from inarch.actors.messages import Command, Enrollment, ExitReason, GuestApplication, GuestTerms, References
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.population_state import JoinPoint
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.snapshot_info import SnapshotInfo


class CoordinatorApi(ABC):
    """What a network may call on the coordinator."""

    @ray.method
    @abstractmethod
    async def post(
        self,
        network_id: int,
        incarnation: int,
        reports: list[IntervalReport],
        snapshot: PublishedSnapshot[References] | None,
    ) -> Command:
        """Take a network's reports and its newest snapshot. The call is also its heartbeat.

        Args:
            network_id: Id of the network.
            incarnation: Number of its process.
            reports: Reports since the last call, oldest first.
            snapshot: Its newest snapshot. None: nothing new.

        Returns:
            What the network is to do.
        """

    @ray.method
    @abstractmethod
    async def ask(self, own: SnapshotInfo) -> tuple[PublishedSnapshot[References], ...] | ExchangeOutcome:
        """Return the snapshots that a network may fetch, or the reason why there are none.

        In lockstep, the call returns when the barrier of the network's interval is released.

        Args:
            own: Progress of the network.
        """

    @ray.method
    @abstractmethod
    async def join(self, network_id: int, incarnation: int) -> JoinPoint[References]:
        """Return where a joining network begins. In lockstep, the call returns when a barrier is released.

        Args:
            network_id: Id of the network.
            incarnation: Number of its process.

        Raises:
            RunError: A later incarnation has replaced this one, or the network left before it could join.
        """

    @ray.method
    @abstractmethod
    async def withdraw(self, origin: SnapshotInfo) -> None:
        """Remove a guest's snapshot that a member could not fetch, because its owner is gone.

        Args:
            origin: The snapshot.
        """


class GuestApi(CoordinatorApi):
    """What a training loop of the caller's own may call on the coordinator besides."""

    @ray.method
    @abstractmethod
    async def terms(self) -> GuestTerms:
        """Return what a loop must know before it joins. The call waits while the run still reads its data.

        Raises:
            RunError: The run is ending, or it runs in lockstep.
        """

    @ray.method
    @abstractmethod
    async def enroll(self, application: GuestApplication) -> Enrollment:
        """Make a loop a member of the run. An earlier process of the same name is fenced off.

        Args:
            application: What the loop states of itself.

        Raises:
            ConfigError: The run exchanges at other intervals, or it is not known at which.
            StructureError: The model has another structure than those of the other members.
            RunError: The run is ending, or it runs in lockstep.
        """

    @ray.method
    @abstractmethod
    async def parent(self, network_id: int, incarnation: int) -> PublishedSnapshot[References] | None:
        """Return the newest snapshot of the most advanced other member, which a loop may clone. None: there is none.

        Args:
            network_id: Id of the guest.
            incarnation: Number of its process.
        """

    @ray.method
    @abstractmethod
    async def sign_off(self, network_id: int, incarnation: int, outcome: ExitReason) -> None:
        """Let a guest leave. Its snapshots are removed, because they end with its process.

        Args:
            network_id: Id of the guest.
            incarnation: Number of its process.
            outcome: DONE or STOPPED.
        """
