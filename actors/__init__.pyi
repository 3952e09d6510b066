from .coordinator.actor import Coordinator, CoordinatorActor
from .driver.callbacks import RunCallback
from .driver.population_run import PopulationRun
from .driver.run_result import NetworkResult, RunResult
from .guest.join import connect_to_run, join
from .guest.member import Member
from .messages import Command, Event, ExitReason, NetworkStatus, RunStatus
from .network.actor import NetworkActor
from .network.exchange_client import ExchangeClient
from .network.worker import NetworkWorker
from .resources import NetworkResources, connect, plan_resources

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
    "RunResult",
    "RunStatus",
    "connect",
    "connect_to_run",
    "join",
    "plan_resources",
]
