"""Processes, references, failure: inarch on Ray."""

from actors.cluster import Placement, connect, place
from actors.coordinator import Coordinator, CoordinatorActor
from actors.courier import Courier
from actors.lookup import find_run
from actors.network import Network, NetworkActor
from actors.run import PopulationRun, RunResult
from actors.spec import Directive, Event, Facts, NetworkStatus, Outcome, RunSpec, RunStatus

__all__ = [
    "Coordinator",
    "CoordinatorActor",
    "Courier",
    "Directive",
    "Event",
    "Facts",
    "Network",
    "NetworkActor",
    "NetworkStatus",
    "Outcome",
    "Placement",
    "PopulationRun",
    "RunResult",
    "RunSpec",
    "RunStatus",
    "connect",
    "find_run",
    "place",
]
