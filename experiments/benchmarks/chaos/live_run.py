"""A run that trains under faults: its drivers one after another, and the faults that last."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inarch.experiments.benchmarks.chaos.drivers import Driver, train_words
from inarch.experiments.benchmarks.chaos.outcome import Journal
from inarch.experiments.benchmarks.chaos.plan import Fault, FaultKind
from inarch.experiments.benchmarks.chaos.run_watch import GivenUpError, RunWatch
from inarch.experiments.benchmarks.chaos.site import Site

TICK_SECONDS = 0.25
"""Pause between two looks at the drivers."""

MAX_UNEXPECTED = 3
"""Drivers that may end as they should not, before the run is given up."""


@dataclass(frozen=True)
class _End:
    """The end of a fault that lasts."""

    at: float
    kind: FaultKind
    call: Callable[[], None]


class LastingFaults:
    """The faults that last, each with the call that ends it."""

    def __init__(self, journal: Journal) -> None:
        """Create it without faults.

        Args:
            journal: Gets the faults that cannot be ended.
        """
        self._journal = journal
        self._ends: list[_End] = []

    def add(self, fault: Fault, end: Callable[[], None]) -> None:
        """Add a fault that has begun now. It ends after its duration.

        Args:
            fault: The fault.
            end: Ends it.
        """
        self._ends.append(_End(time.monotonic() + fault.duration_seconds, fault.kind, end))

    def end_due(self) -> None:
        """End the faults whose duration is over."""
        self._end(lambda end: end.at <= time.monotonic())

    def end_those_of_driver(self) -> None:
        """End the faults with which no driver can stop or resume: a frozen coordinator, and full storage."""
        self._end(lambda end: end.kind in (FaultKind.FREEZE_COORDINATOR, FaultKind.FULL_STORAGE))

    def end_all(self) -> None:
        """End all faults."""
        self._end(lambda end: True)

    def _end(self, is_due: Callable[[_End], bool]) -> None:
        due = [end for end in self._ends if is_due(end)]
        self._ends = [end for end in self._ends if end not in due]
        for end in due:
            try:
                end.call()
            except (TimeoutError, RuntimeError, OSError) as error:
                self._journal.note_problem(f"{end.kind.value} could not be ended: {error}")


class LiveRun:
    """A run and its present driver. A driver that ends before the run does is replaced by `inarch resume`."""

    def __init__(self, site: Site, *, grace_seconds: float) -> None:
        """Prepare a run. Nothing is started.

        Args:
            site: The folders of the chaos run.
            grace_seconds: Time after which the run counts as hanging if nothing has moved.
        """
        self.site, self.watch = site, RunWatch(site, grace_seconds=grace_seconds)
        self.lasting = LastingFaults(site.journal)
        """Faults that last. They end while this waits."""
        self.num_drivers = 0
        """Drivers so far: the first, and one for each resume."""
        self._driver: Driver | None = None
        self._expected: tuple[int, ...] = ()
        self._num_unexpected = 0

    def start(self, *, address: str) -> None:
        """Start the first driver, and wait until its run trains or is over.

        Args:
            address: Address of the cluster, or local.

        Raises:
            GivenUpError: Nothing has moved for the time of grace.
        """
        site = self.site
        text = site.folder / "text.txt"
        self._launch(train_words(site.setting, storage=site.storage, address=address, text=text))

    def train_for(self, seconds: float | None) -> bool:
        """Let the run train, end faults that are due, and replace drivers that have ended.

        Args:
            seconds: How long. A driver that is replaced begins the time anew. None: until the run is complete.

        Returns:
            Whether the run is not complete yet.

        Raises:
            GivenUpError: Too many drivers ended as they should not, or nothing has moved for the time of grace.
        """
        until = None if seconds is None else time.monotonic() + seconds
        while until is None or time.monotonic() < until:
            if self._is_complete():
                return False
            if self._driver is not None and self._driver.status is not None:
                self._replace_driver()
                until = None if seconds is None else time.monotonic() + seconds
            self._wait()
        return True

    def stop_and_resume(self, fault: Fault) -> None:
        """Stop the run by `inarch stop`, and resume it.

        Args:
            fault: The fault.

        Raises:
            GivenUpError: As `train_for`.
        """
        self.lasting.end_those_of_driver()
        self.site.journal.note_injection(fault.kind, f"driver {self.num_drivers}")
        stop = self.site.driver(["stop", str(self.site.path)], name=f"stop-{self.num_drivers}")
        self._await_end(stop)
        self._note_end(stop, (0, 2) if self._has_result() else (0,))
        self._await_end_and_resume((0,))

    def end_driver_and_resume(self, fault: Fault, number: signal.Signals) -> None:
        """End the driver by a signal, and resume its run.

        Args:
            fault: The fault.
            number: SIGTERM or SIGKILL.

        Raises:
            GivenUpError: As `train_for`.
        """
        self.lasting.end_those_of_driver()
        assert self._driver is not None
        self.site.journal.note_injection(fault.kind, f"driver {self.num_drivers}")
        self._driver.process.send_signal(number)
        self._await_end_and_resume((143,) if number == signal.SIGTERM else (-number,))

    def close(self) -> None:
        """Kill the driver if it lives, and end the observer."""
        if self._driver is not None and self._driver.status is None:
            self._driver.process.kill()
            self._driver.process.wait()
        self.watch.close()

    def _launch(self, words: Sequence[str]) -> None:
        """Start a driver, and wait until its run trains or is over."""
        self.num_drivers += 1
        self.site.journal.say(f"driver {self.num_drivers}: inarch {words[0]}")
        self.watch.begin()
        driver = self._driver = self.site.driver(words, name=f"driver-{self.num_drivers}")
        self._expected = ()
        while driver.status is None:
            status = self.watch.status()
            if status is not None and status["state"] == "training":
                return
            self._wait()

    def _wait(self) -> None:
        """Wait for a moment, and end the faults that are due."""
        self.watch.check_moves(printed_bytes=self._driver.printed_bytes if self._driver else 0)
        self.lasting.end_due()
        time.sleep(TICK_SECONDS)

    def _has_result(self) -> bool:
        return (self.site.path / "result.json").exists()

    def _is_complete(self) -> bool:
        """Return whether the last driver has ended with the run's result. Note what is wrong with its end."""
        if self._driver is None:
            return True
        if self._driver.status is None or not self._has_result():
            return False
        self._note_end(self._driver, (*self._expected, 0))
        self._driver = None
        self.watch.close()
        return True

    def _replace_driver(self) -> None:
        """Note how a driver ended before its run did, and resume the run."""
        assert self._driver is not None
        self._note_end(self._driver, self._expected)
        if self._driver.status not in self._expected:
            self._num_unexpected += 1
            if self._num_unexpected > MAX_UNEXPECTED:
                raise GivenUpError(f"{MAX_UNEXPECTED + 1} drivers ended as they should not")
        self.lasting.end_those_of_driver()
        self._launch(["resume", str(self.site.path)])

    def _await_end_and_resume(self, expected: Sequence[int]) -> None:
        assert self._driver is not None
        self._expected = tuple(expected)
        self._await_end(self._driver)
        if not self._is_complete():
            self._replace_driver()

    def _await_end(self, driver: Driver) -> None:
        while driver.status is None:
            self._wait()

    def _note_end(self, driver: Driver, expected: Sequence[int]) -> None:
        complaint = driver.complaint(expected)
        if complaint:
            self.site.journal.note_problem(complaint)
