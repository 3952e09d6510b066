"""What coordinator and supervisor of a run share."""

from __future__ import annotations

from collections.abc import Callable

from inarch.actors.coordinator.admission import Gate
from inarch.actors.coordinator.background_tasks import Background
from inarch.actors.coordinator.monitor import Chronicle
from inarch.actors.coordinator.network_group import Crew
from inarch.actors.coordinator.run_state import Course
from inarch.actors.messages import References, RunSpec
from inarch.population.membership.members import Members
from inarch.population.membership.snapshot_index import PublishedSnapshot, SnapshotIndex
from inarch.population.persistence.storage import Storage


class RunContext:
    """What coordinator and supervisor of one run share: course, members, board, gate, chronicle, processes."""

    def __init__(self, spec: RunSpec, *, on_failure: Callable[[BaseException], None]) -> None:
        """Create the state of a run.

        Args:
            spec: The run.
            on_failure: Called with an exception that a background task raised.
        """
        config = spec.config
        self.spec, self.config = spec, config
        self.is_lockstep = config.mode == "lockstep"
        self.storage = Storage(spec.folder, deadline_seconds=config.patience.storage_seconds)
        self.course = Course()
        self.members = Members()
        self.board: SnapshotIndex[References] = SnapshotIndex(
            config.topology, seed=config.seed, num_versions=2 if self.is_lockstep else 1
        )
        self.gate: Gate[int | PublishedSnapshot[References]] = Gate(
            self.members, is_lockstep=self.is_lockstep, deadline_seconds=config.patience.barrier_seconds
        )
        self.chronicle = Chronicle(spec.name)
        self.crew = Crew(spec)
        self.background = Background(on_failure)
