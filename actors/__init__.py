"""Processes, references, failure: inarch on Ray."""

from inarch.actors.cluster import Placement, connect, place
from inarch.actors.coordinator import Coordinator, CoordinatorActor
from inarch.actors.courier import Courier
from inarch.actors.lookup import find_run
from inarch.actors.network import Network, NetworkActor
from inarch.actors.run import PopulationRun, RunResult
from inarch.actors.spec import Directive, Event, Facts, NetworkStatus, Outcome, RunSpec, RunStatus

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
