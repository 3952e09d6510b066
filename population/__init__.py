"""Algorithms and values of inarch, without Ray: information, grafting, topology, training, the simulator."""

from inarch.population.config import (
    AgeConfig,
    AverageConfig,
    AveragingConfig,
    CheckpointConfig,
    DataConfig,
    DeviceConfig,
    DistillationConfig,
    ExchangeConfig,
    ExploitConfig,
    FusionConfig,
    GraftConfig,
    NetworkConfig,
    OptimizerConfig,
    PaceConfig,
    PatienceConfig,
    PopulationConfig,
    RunConfig,
    ScheduleConfig,
    ShuffleConfig,
    TopologyConfig,
)
from inarch.population.exchange import Arrival, ExchangeRule, Rootstock, Taken, exchange_rule
from inarch.population.grafting.alpha import adaptive_weight
from inarch.population.grafting.criteria import layer_information
from inarch.population.grafting.information import (
    differential_entropy,
    filter_entropy,
    invalid_filters,
    l1_norm,
    layer_entropy,
    orthogonality,
    robust_entropy,
    summed_filter_entropy,
)
from inarch.population.grafting.layer_level import GraftResult, LayerGraft, graft
from inarch.population.grafting.units import GraftUnit, graft_units
from inarch.population.membership.barrier import Barrier, Opening
from inarch.population.membership.members import Member, Members, MemberState
from inarch.population.membership.outcome import Refusal
from inarch.population.membership.snapshot_index import Board, Posting, PostOutcome
from inarch.population.membership.staleness import Age, aged, freshness
from inarch.population.membership.topology import donors, neighbors
from inarch.population.persistence.interval_report import Report
from inarch.population.simulator import Join, Leave, Loss, Simulation, Simulator
from inarch.population.state.snapshot import Origin, Snapshot
from inarch.population.tasks.image_classification import ImageClassification
from inarch.population.tasks.protocol import Task
from inarch.population.training.runtime import Host
from inarch.population.training.trainer import Trainer

__all__ = [
    "Age",
    "AgeConfig",
    "Arrival",
    "AverageConfig",
    "AveragingConfig",
    "Barrier",
    "Board",
    "CheckpointConfig",
    "DataConfig",
    "DeviceConfig",
    "DistillationConfig",
    "ExchangeConfig",
    "ExchangeRule",
    "ExploitConfig",
    "FusionConfig",
    "GraftConfig",
    "GraftResult",
    "GraftUnit",
    "Host",
    "ImageClassification",
    "Join",
    "LayerGraft",
    "Leave",
    "Loss",
    "Member",
    "MemberState",
    "Members",
    "NetworkConfig",
    "Opening",
    "OptimizerConfig",
    "Origin",
    "PaceConfig",
    "PatienceConfig",
    "PopulationConfig",
    "PostOutcome",
    "Posting",
    "Refusal",
    "Report",
    "Rootstock",
    "RunConfig",
    "ScheduleConfig",
    "ShuffleConfig",
    "Simulation",
    "Simulator",
    "Snapshot",
    "Taken",
    "Task",
    "TopologyConfig",
    "Trainer",
    "adaptive_weight",
    "aged",
    "differential_entropy",
    "donors",
    "exchange_rule",
    "filter_entropy",
    "freshness",
    "graft",
    "graft_units",
    "invalid_filters",
    "l1_norm",
    "layer_entropy",
    "layer_information",
    "neighbors",
    "orthogonality",
    "robust_entropy",
    "summed_filter_entropy",
]
