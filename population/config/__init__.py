"""The whole configuration of a run: frozen values, checked when they are created, stored beside every result."""

from inarch.population.config.data import DataConfig, ImageSize, height_and_width
from inarch.population.config.exchange import (
    ExchangeConfig,
    PapaConfig,
    PbtConfig,
    SnapshotPrecision,
    TopologyConfig,
    WashConfig,
)
from inarch.population.config.fusion import FusionConfig, FusionMode
from inarch.population.config.grafting import GraftConfig
from inarch.population.config.model import ModelConfig
from inarch.population.config.open_run import OpenConfig, first_difference
from inarch.population.config.per_network import PerNetwork
from inarch.population.config.population import PopulationConfig
from inarch.population.config.run import Mode, RunConfig
from inarch.population.config.runtime import (
    CheckpointConfig,
    DebugConfig,
    DeviceConfig,
    MetricsConfig,
    StragglerConfig,
    TimeoutsConfig,
)
from inarch.population.config.serialization import from_dict, to_dict
from inarch.population.config.staleness import StalenessConfig
from inarch.population.config.text import TextConfig
from inarch.population.config.training import (
    DistillationConfig,
    OptimizerConfig,
    RegularizationConfig,
    ScheduleConfig,
    WeightAveragingConfig,
)

__all__ = [
    "CheckpointConfig",
    "DataConfig",
    "DebugConfig",
    "DeviceConfig",
    "DistillationConfig",
    "ExchangeConfig",
    "FusionConfig",
    "FusionMode",
    "GraftConfig",
    "ImageSize",
    "MetricsConfig",
    "Mode",
    "ModelConfig",
    "OpenConfig",
    "OptimizerConfig",
    "PapaConfig",
    "PbtConfig",
    "PerNetwork",
    "PopulationConfig",
    "RegularizationConfig",
    "RunConfig",
    "ScheduleConfig",
    "SnapshotPrecision",
    "StalenessConfig",
    "StragglerConfig",
    "TextConfig",
    "TimeoutsConfig",
    "TopologyConfig",
    "WashConfig",
    "WeightAveragingConfig",
    "first_difference",
    "from_dict",
    "height_and_width",
    "to_dict",
]
