"""The processes of a run's networks: made, found again by name, told what to do, ended."""

from __future__ import annotations

import contextlib
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from inarch.actors.messages import NAMESPACE, Command, ExitReason, NetworkSpec, StartPlan, network_name
from inarch.actors.network.actor import create_network
from inarch.actors.resources import NetworkResources
from inarch.population.errors import InarchError
from inarch.population.membership.members import Member
from inarch.population.tasks.run_spec import RunSpec

LONGEST = 500
"""Characters of a reason."""


class NetworkGroup:
    """Handles of the networks that live, by id. Called on the coordinator's event loop only."""

    def __init__(self, run: RunSpec) -> None:
        """Args: whose networks."""
        self._run = run
        self._handles: dict[int, Any] = {}
        self._leavers: list[Any] = []

    def __contains__(self, network_id: int) -> bool:
        return network_id in self._handles

    def networks(self) -> list[int]:
        """Ids of those that have a process, or are about to."""
        return list(self._handles)

    async def create(
        self, member: Member, beginning: StartPlan, data: Any, *, placement: NetworkResources
    ) -> tuple[str, int, int, str]:
        """Ask Ray for a network's process and wait until its network is built.

        Returns:
            Structure, interval, process and node.

        Raises:
            RayActorError: its process died.
            InarchError: its network could not be built.
        """
        spec = NetworkSpec(
            run=self._run,
            network_id=member.id,
            incarnation=member.incarnation,
            mode=beginning.mode,
            threads=placement.threads,
            gpus=placement.gpus,
            at_most_interval=beginning.at_most_interval,
        )
        handle = self._handles[member.id] = create_network(spec, data, cpus=placement.cpus)
        return await await_result(handle.ready.remote())

    def find(self, member: Member) -> int | None:
        """Take over a member's process that lives already; gives its incarnation, which may be one that was begun and
        not yet recorded, or None where there is no such process."""
        for incarnation in (member.incarnation + 1, member.incarnation):
            with contextlib.suppress(ValueError):
                name = network_name(self._run.name, member.id, incarnation)
                self._handles[member.id] = ray.get_actor(name, namespace=NAMESPACE)
                return incarnation
        return None

    async def train(self, network_id: int) -> ExitReason:
        """A network's life, to its end. Raises what the network raised, or RayError where its process died."""
        return await await_result(self._handles[network_id].run.remote())

    async def describe(self, network_id: int) -> Any:
        """How a network stands: report, postings, facts."""
        return await await_result(self._handles[network_id].describe.remote())

    def direct(self, network_id: int, command: Command) -> None:
        """Tell a network; nobody waits for it, and one that is gone does not hear it."""
        if network_id in self._handles:
            self._handles[network_id].direct.remote(command)

    def end(self, network_id: int) -> None:
        """End a network's process, with what it holds in the object store."""
        handle = self._handles.pop(network_id, None)
        if handle is not None:
            ray.kill(handle)

    def end_later(self, network_id: int) -> None:
        """Let a network that has finished keep its snapshots until `end_leavers`: others may still take them."""
        handle = self._handles.pop(network_id, None)
        if handle is not None:
            self._leavers.append(handle)

    def end_leavers(self) -> None:
        """End those that were to end later."""
        for handle in self._leavers:
            ray.kill(handle)
        self._leavers.clear()


async def await_result(reference: Any) -> Any:
    """A task's or method's value; what it raised is raised as itself."""
    try:
        return await reference
    except RayTaskError as error:
        cause = getattr(error, "cause", None)
        raise (cause if isinstance(cause, Exception) else error) from None


def format_error(error: BaseException | None) -> str:
    """What went wrong, in one line: of an error of Ray the last line of its traceback; of a network's own code its kind
    too, and where it was raised."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if isinstance(error, RayError):
        return (lines[-1] if lines else "")[:LONGEST] or type(error).__name__
    text = " ".join(lines)[:LONGEST] or type(error).__name__
    if error is None or isinstance(error, InarchError):
        return text
    where = "".join(f" ({note})" for note in getattr(error, "__notes__", [])[:1])
    return f"{type(error).__name__}: {text}{where}" if lines else text
