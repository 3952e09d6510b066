"""The whole configuration of a run: frozen values, checked when they are made, written beside every result."""

from population.config.exchange import (
    AgeConfig,
    AverageConfig,
    Criterion,
    ExchangeConfig,
    ExploitConfig,
    GraftConfig,
    Rule,
    ShuffleConfig,
    TopologyConfig,
    TopologyName,
)
from population.config.fusion import FusionConfig, FusionMode
from population.config.learning import (
    AveragingConfig,
    DataConfig,
    DeviceConfig,
    DistillationConfig,
    NetworkConfig,
    OptimizerConfig,
    ScheduleConfig,
)
from population.config.run import (
    CheckpointConfig,
    Mode,
    PaceConfig,
    PatienceConfig,
    PopulationConfig,
    RunConfig,
    from_dict,
    to_dict,
)

__all__ = [
    "AgeConfig",
    "AverageConfig",
    "AveragingConfig",
    "CheckpointConfig",
    "Criterion",
    "DataConfig",
    "DeviceConfig",
    "DistillationConfig",
    "ExchangeConfig",
    "ExploitConfig",
    "FusionConfig",
    "FusionMode",
    "GraftConfig",
    "Mode",
    "NetworkConfig",
    "OptimizerConfig",
    "PaceConfig",
    "PatienceConfig",
    "PopulationConfig",
    "Rule",
    "RunConfig",
    "ScheduleConfig",
    "ShuffleConfig",
    "TopologyConfig",
    "TopologyName",
    "from_dict",
    "to_dict",
]
