"""Let the networks of a run take turns if they do not all fit into the cluster (population.time_slicing)."""

from __future__ import annotations

import time

from inarch.actors.coordinator.lifecycle import NetworkLifecycle
from inarch.actors.coordinator.run_context import RunContext
from inarch.actors.resources import NetworkResources
from inarch.population.membership.elasticity import ClusterView, SettledRoom, num_pending
from inarch.population.membership.members import MemberState
from inarch.population.membership.time_slicing import RunningNetwork, select_to_pause

LACK_SECONDS = 4.0
"""Seconds for which networks must have lacked a place before others pause for them."""


class Turns:
    """Lets networks pause for those that wait. Every method is called on the coordinator's event loop."""

    def __init__(self, context: RunContext, lifecycle: NetworkLifecycle, *, lack_seconds: float = LACK_SECONDS) -> None:
        """Create it. No network pauses yet.

        Args:
            context: The parts of the run.
            lifecycle: Pauses and starts the networks.
            lack_seconds: How long networks must have lacked a place before others pause for them.
        """
        self._context, self._lifecycle = context, lifecycle
        self._lack = SettledRoom(seconds=lack_seconds)

    def take(self, view: ClusterView, resources: NetworkResources) -> None:
        """Let as many places become free as networks lack.

        Finished networks end first, because they are only donors by then. For the other places, networks are asked to
        pause at the end of their interval.

        Args:
            view: The cluster.
            resources: Resources of each network.
        """
        members, group = self._context.population.members, self._context.group
        waiting = self._without_place(view, resources)
        lack = self._lack.observe(len(waiting), now=time.monotonic())
        finished = [member.id for member in members if member.state is MemberState.DONE and member.id in group][:lack]
        for network_id in finished:
            self._lifecycle.terminate(network_id)
        num_intervals = self._context.config.population.slice_intervals
        waiting = waiting[: lack - len(finished)]
        for network_id in select_to_pause(self._running(), waiting, slice_intervals=num_intervals):
            self._lifecycle.request_pause(network_id)

    def _running(self) -> list[RunningNetwork]:
        """Return the networks that train."""
        population = self._context.population
        members = [population.members[network_id] for network_id in population.members.active()]
        return [
            RunningNetwork(
                network_id=member.id,
                interval=population.interval(member.id),
                began_interval=member.began_interval,
            )
            for member in members
            if member.state is MemberState.TRAINING
        ]

    def _without_place(self, view: ClusterView, resources: NetworkResources) -> list[int]:
        """Return the completed intervals of each network without a place, in increasing order.

        Processes that were created and are not among the cluster's pending requests have a place, and build their
        models.
        """
        waiting, group = self._lifecycle.waiting(), self._context.group
        created = sorted((network_id for network_id in waiting if network_id in group), key=waiting.__getitem__)
        placed = created[: max(0, len(created) - num_pending(resources.request, view))]
        self._lifecycle.mark_placed(placed)
        return sorted(interval for network_id, interval in waiting.items() if network_id not in placed)
