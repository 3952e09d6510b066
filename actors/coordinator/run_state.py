"""The phase of a run, and what is known of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

from inarch.actors.resources import NetworkResources
from inarch.population.tasks.run_spec import RunInfo

Phase = Literal["starting", "training", "stopping", "finishing", "finished", "failed"]


@dataclass
class RunState:
    """State of one run. Coordinator and lifecycle share it."""

    phase: Phase = "starting"
    is_stopped: bool = False
    """Whether the run was asked to stop."""
    is_failing: bool = False
    """Whether the run has failed. Its phase is failed once that is recorded."""
    message: str = ""
    """Newest error."""
    reasons: dict[int, str] = field(default_factory=dict)
    """Why networks failed, by id."""
    has_begun: bool = False
    """Whether the first networks were placed."""
    began_seconds: float = field(default_factory=time.monotonic)
    """When training began, on the monotonic clock. Before that, when the run was started."""
    ended_seconds: float | None = None
    """When the run ended, on the same clock. None before its end."""

    wanted: int = 0
    """Networks that the population is to have."""
    limit: int | None = None
    """Largest size that the population may reach by itself. None: no limit."""
    resources: NetworkResources | None = None
    """Resources of each network. None before they are known."""
    data: Any = None
    """Reference to the data in the object store."""
    info: RunInfo | None = None
    """What is known of data and model. None before the data are read."""

    @property
    def is_open(self) -> bool:
        """Whether networks may still start."""
        return self.phase in ("starting", "training")

    @property
    def is_ending(self) -> bool:
        """Whether the networks have ended and are evaluated, or the run is over."""
        return self.phase == "finishing" or self.is_over

    @property
    def is_over(self) -> bool:
        """Whether the run has finished or failed, even if that is not recorded yet."""
        return self.is_failing or self.has_ended

    @property
    def has_ended(self) -> bool:
        """Whether the run has finished or failed, and its folder is complete."""
        return self.phase in ("finished", "failed")

    @property
    def seconds(self) -> float:
        """Seconds since training began. They do not grow after the end of the run."""
        return (time.monotonic() if self.ended_seconds is None else self.ended_seconds) - self.began_seconds

    def begin(self) -> None:
        """Begin training: the first networks are placed."""
        self.phase, self.has_begun, self.began_seconds = "training", True, time.monotonic()

    def note_failure(self, message: str) -> None:
        """Record a failure of a network or of storage. The reason why the run itself failed stays.

        Args:
            message: What failed.
        """
        if not self.is_failing:
            self.message = message

    def fail(self, message: str) -> None:
        """Mark the run failing, unless it is over.

        Args:
            message: Why it fails.
        """
        if not self.is_over:
            self.phase, self.is_failing, self.message = "finishing", True, message

    def end(self, phase: Literal["finished", "failed"]) -> None:
        """Mark the end of the run, after which its folder does not change any more.

        Args:
            phase: How it ended.
        """
        self.phase, self.ended_seconds = phase, time.monotonic()
