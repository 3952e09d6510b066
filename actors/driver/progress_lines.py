"""Plain lines on a run's progress, for drivers that are scripts or notebooks."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Sequence

from inarch.actors.event_text import event_text
from inarch.actors.messages import Event
from inarch.population.errors import InarchError
from inarch.population.evaluation.metrics import Metric

END_SECONDS = 5.0
"""Longest wait for the last lines at the end of a run."""


class ProgressLines:
    """Prints each event of a run as a line to standard error, in a thread of its own."""

    def __init__(self, events: Iterable[Event], find_metrics: Callable[[], Sequence[Metric]]) -> None:
        """Begin to print.

        Args:
            events: Events of the run, from its start to its end.
            find_metrics: Returns the metrics of the run's task, of which the first is shown. Called once.
        """
        self._thread = threading.Thread(target=self._run, args=(events, find_metrics), name="progress", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the last lines."""
        self._thread.join(END_SECONDS)

    def _run(self, events: Iterable[Event], find_metrics: Callable[[], Sequence[Metric]]) -> None:
        metrics: Sequence[Metric] = ()
        try:
            for event in events:
                metrics = metrics or find_metrics()
                line = event_text(event, metrics)
                if line:
                    print_line(line)
        except (InarchError, OSError, ValueError):  # the coordinator has ended, or standard error is closed
            return


def print_line(line: str) -> None:
    """Print a line to standard error.

    Args:
        line: The line.
    """
    print(line, file=sys.stderr, flush=True)
