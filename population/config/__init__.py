"""The whole configuration of a run: frozen values, checked when they are made, written beside every result."""

from inarch.population.config.data import DataConfig, ImageSize, height_and_width
from inarch.population.config.exchange import (
    AverageConfig,
    ExchangeConfig,
    ExploitConfig,
    Rule,
    ShuffleConfig,
    TopologyConfig,
    TopologyName,
)
from inarch.population.config.fusion import FusionConfig, FusionMode
from inarch.population.config.grafting import Criterion, GraftConfig
from inarch.population.config.model import ModelConfig
from inarch.population.config.population import PopulationConfig
from inarch.population.config.run import Mode, RunConfig
from inarch.population.config.runtime import CheckpointConfig, DeviceConfig, PaceConfig, PatienceConfig
from inarch.population.config.serialization import from_dict, to_dict
from inarch.population.config.staleness import AgeConfig
from inarch.population.config.training import AveragingConfig, DistillationConfig, OptimizerConfig, ScheduleConfig

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
    "ImageSize",
    "Mode",
    "ModelConfig",
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
    "height_and_width",
    "to_dict",
]
