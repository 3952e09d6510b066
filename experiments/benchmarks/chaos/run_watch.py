"""What is known of the run of a live driver: its status, and whether it still moves."""

from __future__ import annotations

import time
from typing import Any

from inarch.experiments.benchmarks.chaos.site import COMPANIONS, Site
from inarch.experiments.benchmarks.processes.companion import Companion

ANSWER_SECONDS = 15.0
"""Longest wait for an answer of the observer while faults are injected."""


class GivenUpError(Exception):
    """A chaos run that cannot be continued."""


class RunWatch:
    """Watches a run through an observer, a process that is attached to the run, and through the run's folder."""

    def __init__(self, site: Site, *, grace_seconds: float) -> None:
        """Create it. No observer is started.

        Args:
            site: The folders of the chaos run.
            grace_seconds: Time after which the run counts as hanging if nothing has moved.
        """
        self._site, self._grace = site, grace_seconds
        self._observer: Companion | None = None
        self._newest: dict[str, Any] | None = None
        self._launched_at = time.time()
        self._seen: object = None
        self._seen_at = time.monotonic()

    def begin(self) -> None:
        """Forget the status of an earlier driver. A new driver is launched now."""
        self.close()
        self._newest, self._launched_at = None, time.time()

    def close(self) -> None:
        """End the observer."""
        if self._observer is not None:
            self._observer.close()
            self._observer = None

    def status(self) -> dict[str, Any] | None:
        """Return the run's status, or None if it does not answer."""
        if not self._has_started():
            return None
        if self._observer is None or not self._observer.is_alive:
            self.close()
            self._observer = self._site.companion(f"{COMPANIONS}.observer", [str(self._site.path)])
        if not self._observer.ready(seconds=ANSWER_SECONDS):
            return None
        try:
            self._newest = self._observer.ask("status", seconds=ANSWER_SECONDS)
        except (TimeoutError, RuntimeError):
            return None
        return self._newest

    def newest_status(self) -> dict[str, Any]:
        """Return the run's status, or that of its last answer to the present driver's observer.

        Raises:
            TimeoutError: It has not answered since the present driver was launched.
        """
        status = self.status() or self._newest
        if status is None:
            raise TimeoutError("the coordinator did not answer")
        return status

    def scale(self, size: int) -> None:
        """Scale the population. The run's status was returned before.

        Args:
            size: Number of networks.

        Raises:
            TimeoutError: There was no answer in time.
            RuntimeError: The run refuses the request.
        """
        if self._observer is None:
            raise TimeoutError("scale: there is no observer")
        self._observer.ask("scale", seconds=ANSWER_SECONDS, size=size)

    def check_moves(self, *, printed_bytes: int) -> None:
        """Raise if nothing has moved for the time of grace: no file of a network, and no line of a driver.

        Args:
            printed_bytes: Bytes that the driver has printed.

        Raises:
            GivenUpError: Nothing has moved.
        """
        names = [str(path) for path in (self._site.path / "networks").glob("*/*")]
        seen = (len(names), max(names, default=""), printed_bytes)
        if seen != self._seen:
            self._seen, self._seen_at = seen, time.monotonic()
        elif time.monotonic() - self._seen_at > self._grace:
            raise GivenUpError(f"nothing moved for {self._grace:g} s")

    def _has_started(self) -> bool:
        """Return whether the present driver has written where its run is. Before, observers would look in vain."""
        try:
            return (self._site.path / "cluster.json").stat().st_mtime >= self._launched_at
        except OSError:
            return False
