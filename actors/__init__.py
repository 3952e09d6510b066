"""Processes, references, failure: inarch on Ray."""

from inarch.actors.coordinator.actor import Coordinator, CoordinatorActor
from inarch.actors.driver.discovery import find_run
from inarch.actors.driver.population_run import PopulationRun, RunResult
from inarch.actors.messages import Directive, Event, Facts, NetworkStatus, Outcome, RunSpec, RunStatus
from inarch.actors.network.actor import Network, NetworkActor
from inarch.actors.network.exchange_client import Courier
from inarch.actors.resources import Placement, connect, place

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
