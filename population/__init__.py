"""Algorithms and values of inarch, without Ray: information, grafting, topology, training, the simulator."""

from inarch.population.board import Barrier, Board, Opening, Posting, PostOutcome, Refusal
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
from inarch.population.criteria import layer_information
from inarch.population.exchange import Arrival, ExchangeRule, Rootstock, Taken, exchange_rule
from inarch.population.grafting import GraftResult, LayerGraft, adaptive_weight, graft
from inarch.population.host import Host
from inarch.population.information import (
    differential_entropy,
    filter_entropy,
    invalid_filters,
    l1_norm,
    layer_entropy,
    orthogonality,
    robust_entropy,
    summed_filter_entropy,
)
from inarch.population.layers import GraftUnit, graft_units
from inarch.population.members import Member, Members, MemberState
from inarch.population.report import Report
from inarch.population.simulator import Join, Leave, Loss, Simulation, Simulator
from inarch.population.snapshot import Origin, Snapshot
from inarch.population.staleness import Age, aged, freshness
from inarch.population.task import ImageClassification, Task
from inarch.population.topology import donors, neighbors
from inarch.population.training import Trainer

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
