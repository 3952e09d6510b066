"""Call a run's coordinator from the driver."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar, cast

import ray
from ray import ObjectRef
from ray.actor import ActorHandle, ActorProxy
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayError, RayTaskError

from inarch.actors.coordinator.actor import Coordinator
from inarch.actors.messages import NAMESPACE, coordinator_name
from inarch.actors.termination import as_terminated
from inarch.population.errors import ClusterError, InarchError, RunNotFoundError

T = TypeVar("T")

CALL_SECONDS = 60.0
"""Seconds in which the coordinator must answer a call, restarts of its process included."""


EXIT_SECONDS = 5.0
"""Seconds in which a coordinator that was asked to exit must have ended."""

CoordinatorHandle = ActorProxy[Coordinator]
"""Handle of a run's coordinator."""


def find_coordinator(run: str) -> CoordinatorHandle:
    """Return the coordinator of a run on the connected cluster.

    Args:
        run: Name of the run.

    Raises:
        ValueError: There is none.
    """
    return cast("CoordinatorHandle", ray.get_actor(coordinator_name(run), namespace=NAMESPACE))


def end_coordinator(coordinator: CoordinatorHandle) -> None:
    """Let a coordinator's process exit after its run, and kill it if it does not.

    Args:
        coordinator: Handle of the coordinator.
    """
    with contextlib.suppress(RayError, GetTimeoutError):  # the process exits, so the call does not return
        ray.get(coordinator.exit.remote(), timeout=EXIT_SECONDS)
    kill_coordinator(coordinator)


def kill_coordinator(coordinator: CoordinatorHandle) -> None:
    """End a coordinator's process."""
    ray.kill(cast("ActorHandle[Coordinator]", coordinator))


class CoordinatorClient:
    """Client that calls the coordinator's methods, and retries while Ray restarts the coordinator."""

    def __init__(self, *, run: str, folder: str) -> None:
        """Create the client of a run.

        Args:
            run: Name of the run, for errors.
            folder: Path or URI of the run's folder, for errors.
        """
        self._run, self._folder = run, folder

    def call(self, submit: Callable[[], ObjectRef[T]]) -> T:
        """Submit a call to the coordinator and return its value.

        Args:
            submit: Submits the call, as in `lambda: coordinator.status.remote()`. It is called again for each retry.

        Raises:
            ClusterError: The coordinator does not answer.
            RunNotFoundError: The coordinator's process has ended.
            InarchError: The method raised it.
        """
        deadline = time.monotonic() + CALL_SECONDS
        while True:
            try:
                return value_of(submit(), seconds=CALL_SECONDS)
            except (ActorUnavailableError, GetTimeoutError) as error:
                if time.monotonic() > deadline:
                    raise ClusterError(f"run {self._run}: its coordinator does not answer: {error}") from None
                time.sleep(0.2)
            except ActorDiedError:
                raise RunNotFoundError(
                    f"run {self._run} is not running any more; its folder is {self._folder}"
                ) from None


def value_of(reference: ObjectRef[T], *, seconds: float) -> T:
    """Wait for a remote call and return its value.

    Args:
        reference: Reference that the call returned.
        seconds: Longest wait.

    Raises:
        InarchError, TimeoutError: The call raised it. It is raised here as itself, not wrapped in Ray's error.
        GetTimeoutError: The call has not returned after `seconds`.
        RayError: The call failed in another way.
    """
    try:
        with as_terminated():
            return ray.get(reference, timeout=seconds)
    except RayTaskError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, (InarchError, TimeoutError)):
            raise cause from None
        raise
