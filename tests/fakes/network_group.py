"""The processes of a run, as a test drives them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from inarch.actors.coordinator.network_group import NetworkGroup
from inarch.actors.messages import Command, ExitReason, References, StartPlan
from inarch.actors.network.standing import NetworkDescription, NetworkStanding
from inarch.actors.resources import NetworkResources
from inarch.population.membership.members import MemberRecord
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.tasks.run_spec import RunSpec

STRUCTURE = "structure of the run"


class FakeNetworkGroup(NetworkGroup):
    """A group without processes. Networks train until the test lets them end."""

    def __init__(self, run: RunSpec) -> None:
        """Create a group in which every process starts at once.

        Args:
            run: The run.
        """
        super().__init__(run)
        self.created: list[tuple[int, int, StartPlan]] = []
        """Id, incarnation and plan of each created process."""
        self.booted: list[int] = []
        """Networks whose processes were started while the data were read."""
        self.on_create: Callable[[MemberRecord], Exception | None] = lambda member: None
        """An exception for a process that cannot start."""
        self.structure = STRUCTURE
        self.slow: set[int] = set()
        """Networks whose processes never start."""
        self.commands: list[tuple[int, Command]] = []
        self.ended: list[int] = []
        self.handed_over: list[int] = []
        """Networks whose snapshots the coordinator has taken over."""
        self.living: set[int] = set()
        self.known_processes: dict[int, int] = {}
        """Incarnations of processes that `find` finds, by id."""
        self.damages: tuple[str, ...] = ()
        """Damaged checkpoints that each process passes over."""
        self.standings: dict[int, NetworkStanding | Exception] = {}
        self._ends: dict[int, asyncio.Future[ExitReason]] = {}

    def __contains__(self, network_id: int) -> bool:
        return network_id in self.living

    def networks(self) -> list[int]:
        return sorted(self.living)

    def boot(self, member: MemberRecord, plan: StartPlan, data: object, *, resources: NetworkResources) -> None:
        self.booted.append(member.id)

    async def create(self, member: MemberRecord, plan: StartPlan, data: object, *, resources: NetworkResources):
        self.created.append((member.id, member.incarnation, plan))
        if member.id in self.slow:
            await asyncio.sleep(3600.0)
        error = self.on_create(member)
        if error is not None:
            raise error
        self.living.add(member.id)
        return NetworkDescription(
            self.structure, plan.at_most_interval or 0, process=1, node="node", damages=self.damages
        )

    def find(self, member: MemberRecord) -> int | None:
        if member.id not in self.known_processes:
            return None
        self.living.add(member.id)
        return self.known_processes[member.id]

    async def train(self, network_id: int) -> ExitReason:
        self._ends[network_id] = asyncio.get_running_loop().create_future()
        return await self._ends[network_id]

    async def hand_over(self, network_id: int, snapshot: PublishedSnapshot[References]):
        self.handed_over.append(network_id)
        return snapshot

    async def describe(self, network_id: int) -> NetworkStanding:
        standing = self.standings[network_id]
        if isinstance(standing, Exception):
            raise standing
        return standing

    def send(self, network_id: int, command: Command) -> None:
        self.commands.append((network_id, command))

    def end(self, network_id: int) -> None:
        if network_id in self.living:
            self.living.discard(network_id)
            self.ended.append(network_id)

    def end_later(self, network_id: int) -> None:
        self.living.discard(network_id)

    def is_training(self, network_id: int) -> bool:
        return network_id in self._ends and not self._ends[network_id].done()

    def finish(self, network_id: int, reason: ExitReason) -> None:
        """Let a network end with a reason."""
        self._ends[network_id].set_result(reason)

    def fail(self, network_id: int, error: Exception) -> None:
        """Let a network end with an error."""
        self._ends[network_id].set_exception(error)
