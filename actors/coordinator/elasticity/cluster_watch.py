"""Follow the cluster: leave nodes that are about to go, grow onto nodes that have room, and take turns on too few."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from inarch.actors.coordinator.elasticity.node_view import read_cluster
from inarch.actors.coordinator.elasticity.turns import Turns
from inarch.actors.coordinator.lifecycle import NetworkLifecycle
from inarch.actors.coordinator.run_context import RunContext
from inarch.actors.resources import NetworkResources
from inarch.population.membership.elasticity import (
    ClusterView,
    NodeCapacity,
    PopulationSize,
    SettledRoom,
    num_to_start,
    room_for,
)
from inarch.population.membership.members import MemberState

CHECK_SECONDS = 2.0
"""Seconds between two looks at the cluster's nodes."""

WAITING = frozenset({MemberState.STARTING, MemberState.LOST, MemberState.STALLED})
"""States of networks that may have no process. Free room is theirs first."""


class ClusterWatch:
    """Looks at the nodes of the cluster. Every method is called on the coordinator's event loop."""

    def __init__(
        self,
        context: RunContext,
        lifecycle: NetworkLifecycle,
        *,
        read: Callable[[], ClusterView] = read_cluster,
        settled: SettledRoom | None = None,
        turns: Turns | None = None,
    ) -> None:
        """Create it. It does nothing until `check_soon` is called.

        Args:
            context: The parts of the run.
            lifecycle: Starts and moves the networks.
            read: Returns the state of the cluster. It may block.
            settled: Decides when room counts. None: after `SETTLE_SECONDS`.
            turns: Lets networks take turns if they do not all fit. None: those of this run.
        """
        self._context, self._lifecycle, self._read = context, lifecycle, read
        self._settled, self._turns = settled or SettledRoom(), turns or Turns(context, lifecycle)
        self._checked_at = float("-inf")
        self._is_readable = True

    def check_soon(self) -> None:
        """Look at the cluster in the background, unless the last look is recent."""
        now = time.monotonic()
        if now - self._checked_at >= CHECK_SECONDS:
            self._checked_at = now
            self._context.background.run_coalesced(self.check)

    async def check(self) -> None:
        """Read the nodes of the cluster, and let the population follow them.

        Nodes that cannot be read change nothing. A warning in the log says so once, until they can be read again.
        """
        context = self._context
        resources = context.state.resources
        if resources is None or not context.state.has_begun or context.state.phase != "training":
            return
        try:
            view = await asyncio.to_thread(self._read)
        except Exception as error:  # Ray does not call this view stable, and a run must not end because of it
            if self._is_readable:
                text = "the nodes of the cluster cannot be read, so the population does not follow them: %r"
                context.monitor.log.logger.warning(text, error)
            self._is_readable = False
            return
        self._is_readable = True
        if context.state.phase != "training":
            return
        self._leave(node.node_id for node in view.nodes if node.is_draining)
        if context.config.population.is_elastic:
            self._grow(view.nodes, resources)
        if context.config.population.time_slicing:
            self._turns.take(view, resources)

    def _leave(self, draining: Iterable[str]) -> None:
        """Let the networks on draining nodes move. They are asked at each look, until they have ended."""
        leaving = set(draining)
        if not leaving:
            return
        for network_id in self._context.population.members.active():
            member = self._context.population.members[network_id]
            if self._context.monitor.status(member).node in leaving:
                self._lifecycle.request_move(network_id)

    def _grow(self, nodes: tuple[NodeCapacity, ...], resources: NetworkResources) -> None:
        """Start as many networks as there is room for."""
        context = self._context
        room = self._settled.observe(room_for(resources.request, nodes), now=time.monotonic())
        count = num_to_start(room, self._size())
        if count:
            context.monitor.log.logger.info("%d networks are started, as the cluster has room for %d", count, room)
            self._lifecycle.add(count)
        context.state.wanted = len(context.population.members.counted())

    def _size(self) -> PopulationSize:
        """Return the facts of the population that decide its growth."""
        population, info = self._context.population, self._context.state.info
        members = population.members
        counted = members.counted()
        position = max((population.interval(donor) for donor in members.donors), default=0)
        return PopulationSize(
            num_counted=len(counted),
            num_waiting=sum(members[network_id].state in WAITING for network_id in counted),
            num_failed=sum(member.state is MemberState.FAILED for member in members),
            num_spare=int(self._context.config.population.scale_to == "autoscaler"),
            limit=self._context.state.limit,
            intervals_left=(info.num_intervals if info else 0) - position,
        )
