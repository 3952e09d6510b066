"""Train populations of neural networks that graft each other's filters, asynchronously, on Ray.

The packages `inarch.population`, `inarch.actors` and `inarch.experiments` are the folders of the same names in the
repository. Names below are imported when they are first used: `import inarch` needs neither torch nor Ray.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inarch.actors import PopulationRun, RunCallback, RunResult
    from inarch.actors.driver.trackers import MLflow, TensorBoard, Tracker, WandB
    from inarch.actors.guest.join import join
    from inarch.actors.guest.member import ExchangeSummary, Member
    from inarch.population import Metric, Simulator, Task, TensorTask, graft
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
        OpenConfig,
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
    from inarch.population.errors import InarchError

_CONFIG = (
    "CheckpointConfig",
    "DataConfig",
    "DebugConfig",
    "DeviceConfig",
    "DistillationConfig",
    "ExchangeConfig",
    "FusionConfig",
    "GraftConfig",
    "MetricsConfig",
    "ModelConfig",
    "OpenConfig",
    "OptimizerConfig",
    "PapaConfig",
    "PbtConfig",
    "PopulationConfig",
    "RunConfig",
    "ScheduleConfig",
    "StalenessConfig",
    "StragglerConfig",
    "TextConfig",
    "TimeoutsConfig",
    "TopologyConfig",
    "WashConfig",
    "WeightAveragingConfig",
)

_MODULES = {
    **dict.fromkeys(_CONFIG, "inarch.population.config"),
    "InarchError": "inarch.population.errors",
    "PopulationRun": "inarch.actors",
    "RunCallback": "inarch.actors",
    "RunResult": "inarch.actors",
    "Simulator": "inarch.population",
    "Metric": "inarch.population",
    "Task": "inarch.population",
    "TensorTask": "inarch.population",
    "graft": "inarch.population",
    "join": "inarch.actors.guest.join",
    "Member": "inarch.actors.guest.member",
    "ExchangeSummary": "inarch.actors.guest.member",
    **dict.fromkeys(("MLflow", "TensorBoard", "Tracker", "WandB"), "inarch.actors.driver.trackers"),
}
"""Where each public name is defined."""

__all__ = [
    "CheckpointConfig",
    "DataConfig",
    "DebugConfig",
    "DeviceConfig",
    "DistillationConfig",
    "ExchangeConfig",
    "ExchangeSummary",
    "FusionConfig",
    "GraftConfig",
    "InarchError",
    "MLflow",
    "Member",
    "Metric",
    "MetricsConfig",
    "ModelConfig",
    "OpenConfig",
    "OptimizerConfig",
    "PapaConfig",
    "PbtConfig",
    "PopulationConfig",
    "PopulationRun",
    "RunCallback",
    "RunConfig",
    "RunResult",
    "ScheduleConfig",
    "Simulator",
    "StalenessConfig",
    "StragglerConfig",
    "Task",
    "TensorBoard",
    "TensorTask",
    "TextConfig",
    "TimeoutsConfig",
    "TopologyConfig",
    "Tracker",
    "WandB",
    "WashConfig",
    "WeightAveragingConfig",
    "__version__",
    "graft",
    "join",
]

__version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("inarch")
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'inarch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
