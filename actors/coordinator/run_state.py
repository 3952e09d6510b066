"""Where a run stands, from its start to its end, and what it stands on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

from inarch.actors.resources import NetworkResources
from inarch.population.tasks.run_spec import RunInfo

State = Literal["starting", "training", "stopping", "finishing", "finished", "failed"]


@dataclass
class RunState:
    """Of one run; whoever steers it looks at the same one."""

    state: State = "starting"
    message: str = ""
    """What went wrong last."""
    reasons: dict[int, str] = field(default_factory=dict)
    """Why networks were given up, by id."""
    has_begun: bool = False
    """Whether its first networks were placed."""
    began_seconds: float = field(default_factory=time.monotonic)
    """Of the monotonic clock: when they began to train, before that when the run was started."""

    placement: NetworkResources | None = None
    """What each network reserves; None before it is known."""
    data: Any = None
    """Reference to the splits."""
    info: RunInfo | None = None
    """What was found of data and network."""

    @property
    def is_open(self) -> bool:
        """Whether networks may still begin."""
        return self.state in ("starting", "training")

    @property
    def is_ending(self) -> bool:
        """Whether its networks have ended, and are being judged or have been."""
        return self.state == "finishing" or self.is_over

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens."""
        return self.state in ("finished", "failed")

    @property
    def seconds(self) -> float:
        """Since the first networks began to train."""
        return time.monotonic() - self.began_seconds

    def begin(self) -> None:
        """The first networks are placed."""
        self.state, self.has_begun, self.began_seconds = "training", True, time.monotonic()
