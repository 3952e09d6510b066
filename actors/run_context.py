"""What coordinator and supervisor of a run share."""

from __future__ import annotations

from collections.abc import Callable

from actors.background import Background
from actors.chronicle import Chronicle
from actors.course import Course
from actors.crew import Crew
from actors.gate import Gate
from actors.spec import References, RunSpec
from population.board import Board, Posting
from population.members import Members
from population.storage import Storage


class RunContext:
    """Of one run, on one event loop: where it stands, who is in it, what lies where, who waits, what is told."""

    def __init__(self, spec: RunSpec, *, on_failure: Callable[[BaseException], None]) -> None:
        """Args: the run; called with what a task beside raised that nobody caught."""
        config = spec.config
        self.spec, self.config = spec, config
        self.is_lockstep = config.mode == "lockstep"
        self.storage = Storage(spec.folder, deadline_seconds=config.patience.storage_seconds)
        self.course = Course()
        self.members = Members()
        self.board: Board[References] = Board(config.topology, seed=config.seed, kept=2 if self.is_lockstep else 1)
        self.gate: Gate[int | Posting[References]] = Gate(
            self.members, is_lockstep=self.is_lockstep, deadline_seconds=config.patience.barrier_seconds
        )
        self.chronicle = Chronicle(spec.name)
        self.crew = Crew(spec)
        self.background = Background(on_failure)
