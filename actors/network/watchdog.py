"""Ends the process of a network that hangs, or that no coordinator waits for."""

from __future__ import annotations

import os
import threading
import time

from inarch.actors.network.log_file import LogFile

CHECKS = 20
"""Checks within the limit."""

LOG_SECONDS = 5.0
"""Longest wait for the last lines of the log, whose folder may hang too."""


class Watchdog:
    """Watches the progress of training from threads of its own.

    If a kernel or a read never returns, only the end of the process brings the network back.
    """

    def __init__(self, log: LogFile, *, limit_seconds: float, must_end: threading.Event) -> None:
        """Start to watch.

        Args:
            log: Log of the network.
            limit_seconds: Longest time without progress while training.
            must_end: When it is set, the process ends unless the network trains. A training network ends by itself
                after its checkpoint.
        """
        self._log, self._limit, self._must_end = log, limit_seconds, must_end
        self._is_training = False
        self._last_progress = time.monotonic()
        for target in (self._watch_progress, self._wait_for_end):
            threading.Thread(target=target, name="watchdog", daemon=True).start()

    def record_progress(self) -> None:
        """Record a completed step or interval."""
        self._last_progress = time.monotonic()

    def begin_training(self) -> None:
        """Watch for progress from now on."""
        self.record_progress()
        self._is_training = True

    def end_training(self) -> None:
        """Watch for progress no longer."""
        self._is_training = False

    def _watch_progress(self) -> None:
        while True:
            time.sleep(self._limit / CHECKS)
            if self._is_training and time.monotonic() - self._last_progress > self._limit:
                end_hanging(self._log, f"no progress for {self._limit:.0f} s")

    def _wait_for_end(self) -> None:
        self._must_end.wait()
        if not self._is_training:
            exit_soon()


def limit_building(log: LogFile, *, seconds: float) -> threading.Timer:
    """End this process unless its network is built in time. Cancel the timer when it is.

    Args:
        log: Log of the network.
        seconds: Longest time.
    """
    timer = threading.Timer(seconds, end_hanging, args=(log, f"the network was not built within {seconds:g} s"))
    timer.daemon = True
    timer.start()
    return timer


def end_hanging(log: LogFile, reason: str) -> None:
    """End this process at once. The reason is logged if the log can be written.

    Args:
        log: Log of the network.
        reason: Why the process ends.
    """

    def write() -> None:
        log.logger.critical("%s: the process ends", reason)
        log.close()
        log.sync()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    writer.join(LOG_SECONDS)
    os._exit(1)


def exit_soon() -> None:
    """End this process after a second, so that calls under way can be answered."""
    threading.Timer(1.0, os._exit, args=(0,)).start()
