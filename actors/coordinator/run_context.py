"""The parts of a run that coordinator and lifecycle share."""

from __future__ import annotations

from inarch.actors.coordinator.background_tasks import BackgroundTasks
from inarch.actors.coordinator.member_recorder import MemberRecorder
from inarch.actors.coordinator.monitor import RunMonitor
from inarch.actors.coordinator.network_group import NetworkGroup
from inarch.actors.coordinator.run_state import RunState
from inarch.actors.messages import References
from inarch.actors.network.log_file import LogFile
from inarch.population.membership.population_state import PopulationState
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_spec import RunSpec


class RunContext:
    """State, storage, processes, monitor and background tasks of one run."""

    def __init__(self, spec: RunSpec) -> None:
        """Create the parts of a run.

        Args:
            spec: The run.
        """
        config = spec.config
        self.spec, self.config = spec, config
        self.is_lockstep = config.mode == "lockstep"
        self.storage = Storage(spec.folder, deadline_seconds=config.timeouts.storage_seconds)
        self.state = RunState()
        self.population: PopulationState[References] = PopulationState(config)
        self.group = NetworkGroup(spec)
        log = LogFile(self.storage, "coordinator", in_background=True)
        self.monitor = RunMonitor(spec.name, log, per_network=config.metrics.per_network)
        self.background = BackgroundTasks()
        self.recorder = MemberRecorder(
            self.storage, self.population.members, self.state, self.background, monitor=self.monitor, token=spec.token
        )
