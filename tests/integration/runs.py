"""Helpers of the integration tests: small data, waiting, and the rows and weights of a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from inarch.actors import PopulationRun, RunStatus
from inarch.population import (
    DebugConfig,
    ScheduleConfig,
    StragglerConfig,
)
from inarch.population.models import CifarResNet
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage
from tests.conftest import small_config, tiny_splits

DATA = tiny_splits(small_config()).test


assert DATA is not None


ARRAYS = (DATA.images, DATA.labels)


STEPS = 3
"""Training steps of an epoch with these images."""


def own_network(num_classes: int) -> torch.nn.Module:
    return CifarResNet(8, num_classes=num_classes, in_channels=1)


def until(condition: Callable[[], Any], *, seconds: float = 60.0) -> Any:
    """Return the value of `condition` as soon as it is true, and fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"the condition did not hold within {seconds} s")


def intervals(status: RunStatus) -> dict[int, int]:
    return {network.network_id: network.interval for network in status.networks}


def rows_of(run: PopulationRun) -> dict[int, list[int]]:
    return rows_in(run.path)


def rows_in(path: str | Path) -> dict[int, list[int]]:
    """Return the intervals of each network in a run's folder, in order."""
    table = read_table(Storage(str(path)), "metrics")
    rows: dict[int, list[int]] = {}
    for network_id, interval in zip(table["network"].to_pylist(), table["interval"].to_pylist(), strict=True):
        rows.setdefault(network_id, []).append(interval)
    return rows


def paced(epochs: int, step_seconds: float, **changes: Any) -> dict[str, Any]:
    return {
        "schedule": ScheduleConfig(epochs=epochs, batch_size=32, lr_decay="cosine"),
        "debug": DebugConfig(straggler=StragglerConfig(step_seconds=step_seconds)),
        **changes,
    }


def final_weights(path: str) -> dict[int, dict[str, torch.Tensor]]:
    store = CheckpointStore(Storage(path))
    checkpoints = {network_id: store.newest(network_id) for network_id in store.networks()}
    return {
        network_id: dict(checkpoint.model) for network_id, checkpoint in checkpoints.items() if checkpoint is not None
    }


def assert_same_weights(first: dict[int, dict[str, torch.Tensor]], second: dict[int, dict[str, torch.Tensor]]) -> None:
    assert first.keys() == second.keys()
    for network_id in first:
        for name, value in first[network_id].items():
            assert torch.equal(value, second[network_id][name]), (network_id, name)
