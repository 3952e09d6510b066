"""Faults of the networks, the coordinator, guests and nodes of a live run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import psutil

from inarch.experiments.benchmarks.chaos.injectors import freeze, kill, thaw
from inarch.experiments.benchmarks.chaos.live_run import TICK_SECONDS, LiveRun
from inarch.experiments.benchmarks.chaos.plan import Fault
from inarch.experiments.benchmarks.chaos.site import COMPANIONS
from inarch.experiments.benchmarks.processes.companion import Companion

EXCHANGE_SECONDS = 3.0
"""Time that a guest exchanges before it is killed in the midst of it."""

NODE_SECONDS = 180.0
"""Longest wait for a node to join or to leave."""

NODE_CPUS = 2
"""CPUs of a node that is added."""

TRAINING = ("training", "stalled", "leaving", "starting")
"""States of networks that may be victims."""


class PopulationFaults:
    """Injects faults into the population of a run. Each method notes the fault, or raises if it cannot be injected.

    A TimeoutError says that the run does not answer. A RuntimeError says that no network trains, or that the run
    refuses.
    """

    def __init__(self, run: LiveRun, *, nodes: Companion | None) -> None:
        """Create it. Nothing is injected.

        Args:
            run: The run.
            nodes: Owner of the cluster. None: the driver has a Ray of its own.
        """
        self._run, self._nodes, self._journal = run, nodes, run.site.journal
        self._guest: Companion | None = None

    def kill_network(self, fault: Fault) -> None:
        """Kill a network's process.

        Args:
            fault: The fault.
        """
        network = networks(self._run.watch.newest_status(), fault)[0]
        self._journal.note_injection(fault.kind, name_of(network), kill(network["process"]))

    def freeze_network(self, fault: Fault) -> None:
        """Stop a network's process, and continue it later.

        Args:
            fault: The fault.
        """
        network = networks(self._run.watch.newest_status(), fault)[0]
        self._freeze(fault, network["process"], name_of(network))

    def kill_coordinator(self, fault: Fault) -> None:
        """Kill the coordinator's process.

        Args:
            fault: The fault.
        """
        self._journal.note_injection(fault.kind, "coordinator", kill(self._coordinator()))

    def freeze_coordinator(self, fault: Fault) -> None:
        """Stop the coordinator's process, and continue it later.

        Args:
            fault: The fault.
        """
        self._freeze(fault, self._coordinator(), "coordinator")

    def scale(self, fault: Fault, change: int) -> None:
        """Scale the population.

        Args:
            fault: The fault.
            change: Networks that are added, or removed if it is negative.
        """
        size = len(networks(self._run.watch.newest_status(), fault))
        target = min(max(2, size + change), self._run.site.setting.population + 2)
        if target == size:
            reason = "the population has its least or greatest size"
            self._journal.note_injection(fault.kind, f"{size} networks", reason)
            return
        self._run.watch.scale(target)
        self._journal.note_injection(fault.kind, f"{size} to {target} networks")

    def let_guest_join(self, fault: Fault) -> None:
        """Let a guest join, and kill it later while it exchanges.

        Args:
            fault: The fault.
        """
        if self._guest is not None:
            self._journal.note_injection(fault.kind, "guest", "another guest is there")
            return
        guest = self._guest = self._run.site.companion(f"{COMPANIONS}.guest", [str(self._run.site.path)])
        self._journal.say("a guest starts")
        self._run.lasting.add(fault, lambda: self._end_guest(fault, guest))

    def add_node(self, fault: Fault) -> None:
        """Add a node and let the population grow onto it, and remove the node later.

        Args:
            fault: The fault.
        """
        nodes = self._nodes
        assert nodes is not None, "only separate clusters have nodes"
        size = len(networks(self._run.watch.newest_status(), fault))

        def remove() -> None:
            nodes.ask("remove", seconds=NODE_SECONDS)
            self._journal.say("the node is removed")

        nodes.ask("add", seconds=NODE_SECONDS, cpus=NODE_CPUS)
        self._run.lasting.add(fault, remove)
        self._run.watch.scale(size + 1)
        self._journal.note_injection(fault.kind, f"node, and {size} to {size + 1} networks")

    def _coordinator(self) -> int:
        """Return the process id of the coordinator. A frozen coordinator does not answer, but is known."""
        return self._run.watch.newest_status()["coordinator"]

    def _freeze(self, fault: Fault, process: int, target: str) -> None:
        reason = freeze(process)
        self._journal.note_injection(fault.kind, f"{target} for {fault.duration_seconds:.0f} s", reason)
        if not reason:
            self._run.lasting.add(
                fault, lambda: self._journal.say(f"{target} continues" if thaw(process) else f"{target} was gone")
            )

    def _end_guest(self, fault: Fault, guest: Companion) -> None:
        """Kill the guest while it exchanges."""
        self._guest = None
        has_joined = guest.ready(seconds=TICK_SECONDS)
        if has_joined:
            with contextlib.suppress(TimeoutError, RuntimeError):
                guest.ask("exchange", seconds=EXCHANGE_SECONDS, during=60.0)
        guest.process.kill()
        guest.close()
        self._journal.note_injection(fault.kind, "guest", "" if has_joined else "it had not joined in time")


def networks(status: Mapping[str, Any], fault: Fault) -> list[dict[str, Any]]:
    """Return the run's own networks that train, beginning with the one that the fault has chosen.

    Args:
        status: Status of the run, as from the observer.
        fault: The fault.

    Returns:
        At least one network, as in the status.

    Raises:
        RuntimeError: No network trains.
    """
    own = [network for network in status["networks"] if network["name"] is None]
    live = [network for network in own if network["state"] in TRAINING and _lives(network)]
    if not live:
        raise RuntimeError("no network trains")
    first = int(fault.choice * len(live))
    return live[first:] + live[:first]


def name_of(network: Mapping[str, Any]) -> str:
    """Return a network's name for the journal.

    Args:
        network: The network, as from `networks`.
    """
    return f"network {network['id']} (incarnation {network['incarnation']}, interval {network['interval']})"


def _lives(network: Mapping[str, Any]) -> bool:
    """Return whether a network has a living process. The status names that of a lost network until it has a new one."""
    return network["process"] is not None and psutil.pid_exists(network["process"])
