from .config import (
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
    RegularizationConfig,
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
from .evaluation.metrics import Metric
from .exchange import Contribution, ExchangeRule, Rootstock, Scion
from .grafting.alpha import adaptive_weight
from .grafting.criteria import layer_information
from .grafting.information import filter_entropy, l1_norm, layer_entropy
from .grafting.layer_level import GraftResult, LayerGraft, graft
from .grafting.units import GraftUnit, graft_units
from .membership.outcome import ExchangeOutcome
from .simulator import Join, Leave, Loss, Simulation, Simulator
from .state.snapshot import Snapshot
from .state.snapshot_info import SnapshotInfo
from .tasks.image_classification import ImageClassification
from .tasks.protocol import Task
from .tasks.tensor_task import TensorTask
from .training.runtime import TrainerRuntime
from .training.trainer import Trainer

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
    "RegularizationConfig",
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
