"""When a network reports trouble with its storage, and what it reports."""

from __future__ import annotations

import dataclasses
import time

from inarch.actors.network.async_checkpointer import AsyncCheckpointer
from inarch.population.persistence.interval_report import IntervalReport

REPORT_SECONDS = 5.0
"""Seconds between two reports while storage fails."""

MAX_REASON = 500
"""Most characters of a reason."""


class StorageReport:
    """Adds the state of storage to a network's reports, and decides when a report must be sent again for it."""

    def __init__(self, checkpointer: AsyncCheckpointer) -> None:
        """Create it. Nothing was reported yet.

        Args:
            checkpointer: Writes the network's checkpoints.
        """
        self._checkpointer = checkpointer
        self._reported_at = 0.0
        self._was_failing = False

    def is_due(self) -> bool:
        """Return whether the newest report should be sent again: storage fails, or has just recovered."""
        if time.monotonic() - self._reported_at < REPORT_SECONDS and not self._was_failing:
            return False
        is_failing = bool(self._checkpointer.trouble().reason)
        if is_failing and self._was_failing:
            return time.monotonic() - self._reported_at >= REPORT_SECONDS
        return is_failing or self._was_failing

    def added_to(self, report: IntervalReport) -> IntervalReport:
        """Return a report with the present state of storage.

        Args:
            report: Report of an interval.
        """
        trouble = self._checkpointer.trouble()
        self._reported_at, self._was_failing = time.monotonic(), bool(trouble.reason)
        return dataclasses.replace(
            report,
            storage_failure=trouble.reason[:MAX_REASON],
            unwritten_seconds=round(trouble.unwritten_seconds, 1) if trouble.reason else 0.0,
        )
