"""Call a run's coordinator from the driver."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from enum import Enum
from typing import TypeVar, cast

import ray
from ray import ObjectRef
from ray.actor import ActorHandle, ActorProxy
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayError, RayTaskError

from inarch.actors.coordinator.actor import Coordinator
from inarch.actors.messages import NAMESPACE, coordinator_name
from inarch.actors.termination import as_terminated
from inarch.population.errors import ClusterError, InarchError, RunNotFoundError

logger = logging.getLogger("inarch")

T = TypeVar("T")

CALL_SECONDS = 60.0
"""Seconds in which the coordinator must answer a call, restarts of its process included. A driver that follows a run
waits longer, and prints a line after this time."""

RETRY_SECONDS = 0.2
"""Pause between two attempts to call a coordinator whose process restarts."""

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


class NextStep(Enum):
    """What a client does while the coordinator does not answer."""

    RETRY = "retry"
    ANNOUNCE = "announce"
    """Print that the coordinator does not answer, and retry."""
    TIME_OUT = "time out"
    """The caller's time is over."""
    GIVE_UP = "give up"
    """The cluster does not answer either."""


def next_step(
    silent_seconds: float, *, limit_seconds: float | None, is_cluster_up: bool, is_announced: bool
) -> NextStep:
    """Decide what a client does while the coordinator does not answer.

    A coordinator that hangs may continue, and its networks train on meanwhile. A driver that follows a run therefore
    waits as long as the cluster answers, because its own end would end the run.

    Args:
        silent_seconds: Seconds since the client first called.
        limit_seconds: Longest wait of the caller. None: as long as the cluster answers.
        is_cluster_up: Whether the cluster answers, and knows the coordinator.
        is_announced: Whether this silence was announced.
    """
    if limit_seconds is not None and silent_seconds >= limit_seconds:
        return NextStep.TIME_OUT
    if not is_cluster_up:
        return NextStep.GIVE_UP
    is_long = limit_seconds is None and silent_seconds >= CALL_SECONDS
    return NextStep.ANNOUNCE if is_long and not is_announced else NextStep.RETRY


class CoordinatorClient:
    """Client that calls the coordinator's methods, and retries while Ray restarts the coordinator."""

    def __init__(self, *, run: str, folder: str) -> None:
        """Create the client of a run.

        Args:
            run: Name of the run, for errors.
            folder: Path or URI of the run's folder, for errors.
        """
        self._run, self._folder = run, folder
        self._is_announced = False  # only one of the threads that follow the run warns

    def call(self, submit: Callable[[], ObjectRef[T]]) -> T:
        """Submit a call to the coordinator and return its value. The coordinator must answer within CALL_SECONDS.

        Args:
            submit: Submits the call, as in `lambda: coordinator.status.remote()`. It is called again for each retry.

        Raises:
            ClusterError: The coordinator does not answer.
            RunNotFoundError: The coordinator's process has ended.
            InarchError: The method raised it.
        """
        try:
            return self.follow(submit, seconds=CALL_SECONDS)
        except SilentError as error:
            raise ClusterError(f"run {self._run}: its coordinator does not answer: {error}") from None

    def follow(self, submit: Callable[[], ObjectRef[T]], *, seconds: float | None = None) -> T:
        """Submit a call to the coordinator, and wait for its value as long as the cluster answers.

        A warning names a coordinator that has not answered for CALL_SECONDS, and another one follows when it answers.

        Args:
            submit: As in `call`.
            seconds: Longest wait. None: no limit while the cluster answers.

        Raises:
            SilentError: The coordinator did not answer within `seconds`.
            ClusterError: The cluster does not answer.
            RunNotFoundError: The coordinator's process has ended.
            InarchError: The method raised it.
        """
        began = time.monotonic()
        while True:
            try:
                attempt_seconds = CALL_SECONDS if seconds is None else seconds - (time.monotonic() - began)
                value = value_of(submit(), seconds=max(0.01, min(attempt_seconds, CALL_SECONDS)))
            except (ActorUnavailableError, GetTimeoutError) as error:
                silent_seconds = time.monotonic() - began
                step = next_step(
                    silent_seconds,
                    limit_seconds=seconds,
                    is_cluster_up=self._is_known(),
                    is_announced=self._is_announced,
                )
                if step is NextStep.TIME_OUT:
                    raise SilentError(str(error)) from None
                if step is NextStep.GIVE_UP:
                    raise ClusterError(f"run {self._run}: its cluster does not answer: {error}") from None
                if step is NextStep.ANNOUNCE:
                    self._is_announced = True
                    logger.warning(
                        "run %s: its coordinator has not answered for %.0f s; this driver waits, because the cluster "
                        "answers, and the networks train on for a lease",
                        self._run,
                        silent_seconds,
                    )
                time.sleep(RETRY_SECONDS)
            except ActorDiedError:
                raise self._not_running() from None
            else:
                if self._is_announced:
                    self._is_announced = False
                    silent_seconds = time.monotonic() - began
                    logger.warning("run %s: its coordinator answers again, after %.0f s", self._run, silent_seconds)
                return value

    def _is_known(self) -> bool:
        """Return whether the cluster answers. Raise RunNotFoundError if it no longer knows the coordinator."""
        try:
            find_coordinator(self._run)
        except ValueError:
            raise self._not_running() from None
        except (RayError, RuntimeError, ConnectionError, TimeoutError):
            return False
        return True

    def _not_running(self) -> RunNotFoundError:
        return RunNotFoundError(f"run {self._run} is not running any more; its folder is {self._folder}")


class SilentError(TimeoutError):
    """The coordinator did not answer within the caller's time."""


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
