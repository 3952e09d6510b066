"""What coordinator and supervisor of a run share."""

from __future__ import annotations

from collections.abc import Callable

from inarch.actors.coordinator.admission import Admission
from inarch.actors.coordinator.background_tasks import BackgroundTasks
from inarch.actors.coordinator.monitor import RunMonitor
from inarch.actors.coordinator.network_group import NetworkGroup
from inarch.actors.coordinator.run_state import RunState
from inarch.actors.messages import References
from inarch.population.membership.members import Members
from inarch.population.membership.snapshot_index import PublishedSnapshot, SnapshotIndex
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_spec import RunSpec


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
        self.storage = Storage(spec.folder, deadline_seconds=config.timeouts.storage_seconds)
        self.course = RunState()
        self.members = Members()
        self.board: SnapshotIndex[References] = SnapshotIndex(
            config.topology, seed=config.seed, num_versions=2 if self.is_lockstep else 1
        )
        self.gate: Admission[int | PublishedSnapshot[References]] = Admission(
            self.members, is_lockstep=self.is_lockstep, deadline_seconds=config.timeouts.barrier_seconds
        )
        self.chronicle = RunMonitor(spec.name)
        self.crew = NetworkGroup(spec)
        self.background = BackgroundTasks(on_failure)
