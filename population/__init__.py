"""Algorithms and values of inarch, without Ray: information, grafting, topology, training, the simulator."""

from inarch.population.config import (
    CheckpointConfig,
    DataConfig,
    DebugConfig,
    DeviceConfig,
    DistillationConfig,
    ExchangeConfig,
    FusionConfig,
    GraftConfig,
    ModelConfig,
    OptimizerConfig,
    PapaConfig,
    PbtConfig,
    PopulationConfig,
    RunConfig,
    ScheduleConfig,
    StalenessConfig,
    StragglerConfig,
    TimeoutsConfig,
    TopologyConfig,
    WashConfig,
    WeightAveragingConfig,
)
from inarch.population.exchange import Contribution, ExchangeRule, Rootstock, Scion, exchange_rule
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
from inarch.population.membership.barrier import Barrier, BarrierResult
from inarch.population.membership.members import Member, Members, MemberState
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.snapshot_index import PostOutcome, PublishedSnapshot, SnapshotIndex
from inarch.population.membership.staleness import Staleness, discounted_alpha, staleness_discount
from inarch.population.membership.topology import donors, neighbors
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.simulator import Join, Leave, Loss, Simulation, Simulator
from inarch.population.state.snapshot import Snapshot, SnapshotInfo
from inarch.population.tasks.image_classification import ImageClassification
from inarch.population.tasks.protocol import Task
from inarch.population.training.runtime import TrainerRuntime
from inarch.population.training.trainer import Trainer

__all__ = [
    "Barrier",
    "BarrierResult",
    "CheckpointConfig",
    "Contribution",
    "DataConfig",
    "DebugConfig",
    "DeviceConfig",
    "DistillationConfig",
    "ExchangeConfig",
    "ExchangeOutcome",
    "ExchangeRule",
    "FusionConfig",
    "GraftConfig",
    "GraftResult",
    "GraftUnit",
    "ImageClassification",
    "IntervalReport",
    "Join",
    "LayerGraft",
    "Leave",
    "Loss",
    "Member",
    "MemberState",
    "Members",
    "ModelConfig",
    "OptimizerConfig",
    "PapaConfig",
    "PbtConfig",
    "PopulationConfig",
    "PostOutcome",
    "PublishedSnapshot",
    "Rootstock",
    "RunConfig",
    "ScheduleConfig",
    "Scion",
    "Simulation",
    "Simulator",
    "Snapshot",
    "SnapshotIndex",
    "SnapshotInfo",
    "Staleness",
    "StalenessConfig",
    "StragglerConfig",
    "Task",
    "TimeoutsConfig",
    "TopologyConfig",
    "Trainer",
    "TrainerRuntime",
    "WashConfig",
    "WeightAveragingConfig",
    "adaptive_weight",
    "differential_entropy",
    "discounted_alpha",
    "donors",
    "exchange_rule",
    "filter_entropy",
    "graft",
    "graft_units",
    "invalid_filters",
    "l1_norm",
    "layer_entropy",
    "layer_information",
    "neighbors",
    "orthogonality",
    "robust_entropy",
    "staleness_discount",
    "summed_filter_entropy",
]
