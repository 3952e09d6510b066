"""Trackers: TensorBoard, MLflow and Weights & Biases. Each imports its library when a run begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from inarch.actors.driver.trackers.mlflow import MLflow
from inarch.actors.driver.trackers.tensorboard import TensorBoard
from inarch.actors.driver.trackers.tracker import TrackedRun, Tracker
from inarch.actors.driver.trackers.wandb import WandB
from inarch.population.errors import ConfigError

__all__ = ["TRACKERS", "MLflow", "TensorBoard", "TrackedRun", "Tracker", "WandB", "resolve_trackers"]

TRACKERS: dict[str, Callable[..., Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}
"""Trackers by name. Each takes its target as its first argument: a folder, a tracking URI, or a project."""


def resolve_trackers(names: Sequence[str]) -> list[Tracker]:
    """Return trackers.

    Args:
        names: Each is a name in `TRACKERS`, with a target after `=` or without.

    Raises:
        ConfigError: There is no such tracker, or its library is not installed.
    """
    trackers: list[Tracker] = []
    for text in names:
        name, has_target, target = text.partition("=")
        if name not in TRACKERS or (has_target and not target):
            form = ", ".join(TRACKERS)
            raise ConfigError(f"track must consist of {form}, each with a target after = or without, got {text!r}")
        trackers.append(TRACKERS[name](target) if target else TRACKERS[name]())
    return trackers
