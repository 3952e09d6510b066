"""The processes of a run's networks: create them, find them by name, send them commands, end them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
from collections.abc import Awaitable
from typing import Any, TypeVar, cast

import ray
from ray import ObjectRef
from ray.actor import ActorHandle, ActorProxy
from ray.exceptions import RayError, RayTaskError

from inarch.actors.messages import NAMESPACE, Command, ExitReason, NetworkSpec, References, StartPlan, network_name
from inarch.actors.network.actor import Network, create_network
from inarch.actors.network.standing import NetworkDescription, NetworkStanding
from inarch.actors.resources import NetworkResources
from inarch.population.errors import InarchError
from inarch.population.membership.members import MemberRecord
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.tasks.run_spec import RunSpec

EXIT_SECONDS = 10.0
"""Seconds in which a process that was asked to exit must have ended."""

HAND_OVER_SECONDS = 10.0
"""Longest wait for the bytes of a snapshot."""

MAX_REASON = 500
"""Most characters of a reason."""

T = TypeVar("T")


class NetworkGroup:
    """Handles of the living networks, by id. Every method is called on the coordinator's event loop."""

    def __init__(self, run: RunSpec) -> None:
        """Create a group without processes.

        Args:
            run: The run that the networks belong to.
        """
        self._run = run
        self._handles: dict[int, ActorProxy[Network]] = {}
        self._leavers: list[tuple[ActorProxy[Network], bool]] = []
        self._finished: set[int] = set()
        self._booted: set[tuple[int, int]] = set()

    def __contains__(self, network_id: int) -> bool:
        return network_id in self._handles

    def networks(self) -> list[int]:
        """Return the ids of networks that have a process, or will have one soon."""
        return list(self._handles)

    async def create(
        self, member: MemberRecord, plan: StartPlan, data: ObjectRef[Any], *, resources: NetworkResources
    ) -> NetworkDescription:
        """Create a network's process, unless `boot` has, and wait until its model is built.

        Args:
            member: The member.
            plan: How it starts.
            data: Reference to the data.
            resources: What Ray reserves for it.

        Raises:
            RayActorError: Its process died.
            InarchError: Its model could not be built.
        """
        if (member.id, member.incarnation) not in self._booted:
            self.boot(member, plan, data, resources=resources)
        self._booted.discard((member.id, member.incarnation))
        return await await_result(self._handles[member.id].ready.remote())

    def boot(self, member: MemberRecord, plan: StartPlan, data: ObjectRef[Any], *, resources: NetworkResources) -> None:
        """Create a network's process, which waits for the data and builds its model.

        Args:
            member: The member.
            plan: How it starts.
            data: Reference to the data, which may still be read.
            resources: What Ray reserves for it.
        """
        spec = NetworkSpec(
            run=self._run,
            network_id=member.id,
            incarnation=member.incarnation,
            mode=plan.mode,
            threads=resources.threads,
            gpus=resources.gpus,
            at_most_interval=plan.at_most_interval,
        )
        self._handles[member.id] = create_network(spec, data, cpus=resources.cpus)
        self._booted.add((member.id, member.incarnation))
        self._finished.discard(member.id)  # that was its former process

    def find(self, member: MemberRecord) -> int | None:
        """Take over the living process of a member, if there is one.

        Args:
            member: The member, as it was last recorded.

        Returns:
            Incarnation of the process, which may be one that was started but not recorded. None without a process.
        """
        for incarnation in (member.incarnation + 1, member.incarnation):
            with contextlib.suppress(ValueError):
                name = network_name(self._run.name, member.id, incarnation)
                handle = ray.get_actor(name, namespace=NAMESPACE)
                self._handles[member.id] = cast("ActorProxy[Network]", handle)
                return incarnation
        return None

    async def train(self, network_id: int) -> ExitReason:
        """Let a network train to its end.

        Args:
            network_id: Id of the network.

        Raises:
            Exception: What the network raised, or RayError if its process died.
        """
        self._finished.discard(network_id)
        name = f"{self._run.name}/{network_id} train"  # Ray gives it to the process, so that networks can be told apart
        method: Any = self._handles[network_id].run  # ray.method's types lack `options`
        reason: ExitReason = await await_result(method.options(name=name).remote())
        self._finished.add(network_id)
        return reason

    async def describe(self, network_id: int) -> NetworkStanding:
        """Return how a network stands."""
        return await await_result(self._handles[network_id].describe.remote())

    async def hand_over(
        self, network_id: int, snapshot: PublishedSnapshot[References]
    ) -> PublishedSnapshot[References] | None:
        """Take over a snapshot's bytes, so that they outlive the process of their network.

        Ray drops an object with the process that put it into the store. A value that a call returns belongs to the
        caller. It stays on the network's node, and is not copied to this one.

        Args:
            network_id: Id of the network. Its training has ended.
            snapshot: A snapshot that it has published.

        Returns:
            The same snapshot with another reference. None if that took longer than `HAND_OVER_SECONDS`.
        """
        if network_id not in self._handles:
            return None
        reference = self._handles[network_id].hand_over.remote(snapshot.origin)
        wait = functools.partial(ray.wait, [reference], timeout=HAND_OVER_SECONDS, fetch_local=False)
        ready, _ = await asyncio.to_thread(wait)
        return dataclasses.replace(snapshot, payload=[reference]) if ready else None

    def send(self, network_id: int, command: Command) -> None:
        """Send a command to a network without waiting. It has no effect if the process is gone."""
        if network_id in self._handles:
            self._handles[network_id].direct.remote(command)

    def end(self, network_id: int) -> None:
        """End a network's process, with what it holds in the object store.

        A process whose training has ended exits on its own, and Ray shows it as exited as intended. Others are killed.
        """
        handle = self._handles.pop(network_id, None)
        if handle is not None:
            _end(handle, has_finished=network_id in self._finished)

    def end_later(self, network_id: int) -> None:
        """Keep a finished network's process until `end_leavers`, so that others can still fetch its snapshots."""
        handle = self._handles.pop(network_id, None)
        if handle is not None:
            self._leavers.append((handle, network_id in self._finished))

    def end_leavers(self) -> None:
        """End the processes that `end_later` kept."""
        for handle, has_finished in self._leavers:
            _end(handle, has_finished=has_finished)
        self._leavers.clear()


def _end(handle: ActorProxy[Network], *, has_finished: bool) -> None:
    """End a process: ask it to exit if its training has ended, and kill it otherwise, or after `EXIT_SECONDS`."""
    if not has_finished:
        _kill(handle)
        return
    handle.exit.remote()
    asyncio.get_running_loop().call_later(EXIT_SECONDS, _kill, handle)


def _kill(handle: ActorProxy[Network]) -> None:
    ray.kill(cast("ActorHandle[Network]", handle))


async def await_result(reference: ObjectRef[T]) -> T:
    """Return the value of a task or an actor call.

    Args:
        reference: Reference to the value.

    Raises:
        Exception: The exception that the remote code raised, as itself. RayError for a failure of Ray.
    """
    try:
        return await cast("Awaitable[T]", reference)
    except RayTaskError as error:
        cause = getattr(error, "cause", None)
        raise (cause if isinstance(cause, Exception) else error) from None


def format_error(error: BaseException | None) -> str:
    """Return what went wrong in one line.

    An error of Ray is shortened to the last line of its traceback. An error of the user's code has its type and the
    place where it was raised.
    """
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if isinstance(error, RayError):
        return (lines[-1] if lines else "")[:MAX_REASON] or type(error).__name__
    text = " ".join(lines)[:MAX_REASON] or type(error).__name__
    if error is None or isinstance(error, InarchError):
        return text
    notes: list[Any] = getattr(error, "__notes__", [])
    place = "".join(f" ({note})" for note in notes[:1])
    return f"{type(error).__name__}: {text}{place}" if lines else text
