"""Fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from inarch.actors import PopulationRun
from inarch.population import (
    DataConfig,
)
from inarch.population.config import OpenConfig
from inarch.population.errors import (
    RunNotFoundError,
)
from tests.conftest import small_config
from tests.integration.commands import Commands
from tests.integration.runs import (
    ARRAYS,
)


@pytest.fixture
def begin(tmp_path: Path, cluster: str) -> Iterator[Callable[..., PopulationRun]]:
    """Return a function that starts runs in the test's own folder. Runs that remain after the test are stopped."""
    runs: list[PopulationRun] = []

    def start(
        name: str, *, data: Any = ARRAYS, data_config: DataConfig | None = None, model: Any = None, **changes: Any
    ) -> PopulationRun:
        changes |= {} if data_config is None else {"data": data_config}
        config = small_config(name=name, storage=str(tmp_path), **changes)
        run = PopulationRun.start(config, data=data, model=model)
        runs.append(run)
        return run

    yield start
    end_all(runs)


@pytest.fixture
def open_run(tmp_path: Path, cluster: str) -> Iterator[Callable[..., PopulationRun]]:
    """Return a function that opens runs for training loops in the test's own folder, until the end of the test."""
    runs: list[PopulationRun] = []

    def start(name: str, **settings: Any) -> PopulationRun:
        run = PopulationRun.open(name, OpenConfig(**settings), storage=str(tmp_path))
        runs.append(run)
        return run

    yield start
    end_all(runs)


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    """Start `inarch` commands with a Ray of their own. Processes that remain are ended after the test."""
    started = Commands(tmp_path)
    yield started
    started.close()


def end_all(runs: Iterable[PopulationRun]) -> None:
    """Stop runs that are still live, and end their coordinators."""
    for run in runs:
        try:
            run.stop(seconds=30)
            run.close()
        except RunNotFoundError:
            continue
