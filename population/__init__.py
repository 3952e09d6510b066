"""Algorithms and values of inarch, without Ray: information, grafting, topology, training, the simulator."""

from population.board import Barrier, Board, Opening, Posting, PostOutcome, Refusal
from population.config import (
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
from population.criteria import layer_information
from population.exchange import Arrival, ExchangeRule, Rootstock, Taken, exchange_rule
from population.grafting import GraftResult, LayerGraft, adaptive_weight, graft
from population.host import Host
from population.information import (
    differential_entropy,
    filter_entropy,
    invalid_filters,
    l1_norm,
    layer_entropy,
    orthogonality,
    robust_entropy,
    summed_filter_entropy,
)
from population.layers import GraftUnit, graft_units
from population.members import Member, Members, MemberState
from population.report import Report
from population.simulator import Join, Leave, Loss, Simulation, Simulator
from population.snapshot import Origin, Snapshot
from population.staleness import Age, aged, freshness
from population.task import ImageClassification, Task
from population.topology import donors, neighbors
from population.training import Trainer

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
