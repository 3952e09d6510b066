"""What a chaos run did, and what did not hold."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from inarch.experiments.benchmarks.chaos.plan import ChaosSetting, FaultKind


@dataclass(frozen=True, kw_only=True)
class Injection:
    """A fault that was injected, or could not be."""

    kind: FaultKind
    seconds: float
    """Time since the beginning of the chaos run."""
    target: str
    reason: str = ""
    """Why it could not be injected. Empty if it was."""

    @property
    def has_happened(self) -> bool:
        """Whether the fault was injected."""
        return not self.reason


@dataclass(frozen=True, kw_only=True)
class ChaosOutcome:
    """What a chaos run did, and what did not hold."""

    setting: ChaosSetting
    injections: tuple[Injection, ...]
    drivers: int
    """Number of drivers: the first, and one for each resume."""
    rows: int
    """Intervals in the history, of all networks."""
    seconds: float
    problems: tuple[str, ...]
    """What did not hold. Empty if everything did."""

    @property
    def has_passed(self) -> bool:
        """Whether everything held, and at least one fault was injected."""
        return not self.problems and any(injection.has_happened for injection in self.injections)


class Journal:
    """The faults and the problems of a chaos run while it lasts. Each is printed when it is noted."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """Begin the journal. Its time begins now.

        Args:
            say: Prints a line.
        """
        self._print, self._began = say, time.monotonic()
        self.injections: list[Injection] = []
        self.problems: list[str] = []

    @property
    def seconds(self) -> float:
        """Time since the beginning."""
        return time.monotonic() - self._began

    def say(self, text: str) -> None:
        """Print a line with the time.

        Args:
            text: The line.
        """
        self._print(f"{self.seconds:7.1f} s  {text}")

    def note_injection(self, kind: FaultKind, target: str, reason: str = "") -> None:
        """Note a fault that was injected, or could not be.

        Args:
            kind: Kind of the fault.
            target: What it hit.
            reason: Why it could not be injected. Empty if it was.
        """
        self.injections.append(Injection(kind=kind, seconds=self.seconds, target=target, reason=reason))
        self.say(f"{kind.value}: {target}" + (f", NOT INJECTED: {reason}" if reason else ""))

    def note_problem(self, text: str) -> None:
        """Note what does not hold.

        Args:
            text: The problem.
        """
        self.problems.append(text)
        self.say(f"WRONG: {text}")
