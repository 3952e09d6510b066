"""Train populations on Ray: an actor for each network, a coordinator, and the driver's handle on a run."""

from inarch.actors.coordinator.actor import Coordinator, CoordinatorActor
from inarch.actors.driver.callbacks import RunCallback
from inarch.actors.driver.population_run import PopulationRun
from inarch.actors.driver.run_result import NetworkResult, RunResult
from inarch.actors.messages import Command, Event, ExitReason, NetworkStatus, RunStatus
from inarch.actors.network.actor import NetworkActor, NetworkWorker
from inarch.actors.network.exchange_client import ExchangeClient
from inarch.actors.resources import NetworkResources, connect, plan_resources
from inarch.population.tasks.run_folder import find_run
from inarch.population.tasks.run_spec import RunInfo, RunSpec

__all__ = [
    "Command",
    "Coordinator",
    "CoordinatorActor",
    "Event",
    "ExchangeClient",
    "ExitReason",
    "NetworkActor",
    "NetworkResources",
    "NetworkResult",
    "NetworkStatus",
    "NetworkWorker",
    "PopulationRun",
    "RunCallback",
    "RunInfo",
    "RunResult",
    "RunSpec",
    "RunStatus",
    "connect",
    "find_run",
    "plan_resources",
]
