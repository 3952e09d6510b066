"""Algorithms and values of inarch, without Ray: grafting, exchange, membership, training and the simulator."""

from inarch.population.config import (
    CheckpointConfig,
    DataConfig,
    DebugConfig,
    DeviceConfig,
    DistillationConfig,
    ExchangeConfig,
    FusionConfig,
    GraftConfig,
    MetricsConfig,
    ModelConfig,
    OptimizerConfig,
    PapaConfig,
    PbtConfig,
    PopulationConfig,
    RunConfig,
    ScheduleConfig,
    StalenessConfig,
    StragglerConfig,
    TextConfig,
    TimeoutsConfig,
    TopologyConfig,
    WashConfig,
    WeightAveragingConfig,
)
from inarch.population.evaluation.metrics import Metric
from inarch.population.exchange import Contribution, ExchangeRule, Rootstock, Scion
from inarch.population.grafting.alpha import adaptive_weight
from inarch.population.grafting.criteria import layer_information
from inarch.population.grafting.information import filter_entropy, l1_norm, layer_entropy
from inarch.population.grafting.layer_level import GraftResult, LayerGraft, graft
from inarch.population.grafting.units import GraftUnit, graft_units
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.simulator import Join, Leave, Loss, Simulation, Simulator
from inarch.population.state.snapshot import Snapshot, SnapshotInfo
from inarch.population.tasks.image_classification import ImageClassification
from inarch.population.tasks.protocol import Task
from inarch.population.tasks.tensor_task import TensorTask
from inarch.population.training.runtime import TrainerRuntime
from inarch.population.training.trainer import Trainer

__all__ = [
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
    "Join",
    "LayerGraft",
    "Leave",
    "Loss",
    "Metric",
    "MetricsConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PapaConfig",
    "PbtConfig",
    "PopulationConfig",
    "Rootstock",
    "RunConfig",
    "ScheduleConfig",
    "Scion",
    "Simulation",
    "Simulator",
    "Snapshot",
    "SnapshotInfo",
    "StalenessConfig",
    "StragglerConfig",
    "Task",
    "TensorTask",
    "TextConfig",
    "TimeoutsConfig",
    "TopologyConfig",
    "Trainer",
    "TrainerRuntime",
    "WashConfig",
    "WeightAveragingConfig",
    "adaptive_weight",
    "filter_entropy",
    "graft",
    "graft_units",
    "l1_norm",
    "layer_entropy",
    "layer_information",
]
