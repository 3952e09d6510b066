"""Calls of the driver to a run's coordinator."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayTaskError

from inarch.actors.termination import as_terminated
from inarch.population.errors import ClusterError, InarchError, RunNotFoundError

CALL_SECONDS = 60.0
"""A coordinator that does not answer in this time, restarts included, cannot be reached."""


class CoordinatorClient:
    """Calls the coordinator's methods, and retries while Ray restarts it."""

    def __init__(self, coordinator: Any, *, run: str, folder: str) -> None:
        """Wrap an actor handle.

        Args:
            coordinator: The actor.
            run: The run's name, for errors.
            folder: The run's folder, for errors.
        """
        self._coordinator, self._run, self._folder = coordinator, run, folder

    def call(self, method: str, *arguments: Any) -> Any:
        """The value of a method.

        Raises:
            ClusterError: the coordinator does not answer.
            RunNotFoundError: the coordinator has ended.
            InarchError: the coordinator raised it.
        """
        deadline = time.monotonic() + CALL_SECONDS
        while True:
            try:
                return value_of(getattr(self._coordinator, method).remote(*arguments), seconds=CALL_SECONDS)
            except (ActorUnavailableError, GetTimeoutError) as error:
                if time.monotonic() > deadline:
                    raise ClusterError(f"run {self._run}: its coordinator does not answer: {error}") from None
                time.sleep(0.2)
            except ActorDiedError:
                raise RunNotFoundError(
                    f"run {self._run} is not running any more; its folder is {self._folder}"
                ) from None


def value_of(reference: Any, *, seconds: float) -> Any:
    """The value of a remote call. An InarchError that the call raised is raised as itself."""
    try:
        with as_terminated():
            return ray.get(reference, timeout=seconds)
    except RayTaskError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, (InarchError, TimeoutError)):
            raise cause from None
        raise
