"""Train populations on Ray: an actor for each network, a coordinator, and the driver's handle on a run."""

from inarch.actors.coordinator.actor import Coordinator, CoordinatorActor
from inarch.actors.driver.callbacks import RunCallback
from inarch.actors.driver.population_run import PopulationRun
from inarch.actors.driver.run_result import NetworkResult, RunResult
from inarch.actors.guest.join import connect_to_run, join
from inarch.actors.guest.member import Member
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
    "Member",
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
    "connect_to_run",
    "find_run",
    "join",
    "plan_resources",
]
