"""The Ray tasks of a run, called without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inarch.actors.coordinator import remote_tasks
from inarch.population.errors import DataError
from inarch.population.tasks.run_spec import RunSpec
from tests.conftest import small_config


def test_data_that_were_read_before_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart of the coordinator the data may not be mounted yet. At a start, a wrong path is said at once."""
    spec = RunSpec(name="run", folder=str(tmp_path), config=small_config())
    calls: list[int] = []

    def prepare(spec: RunSpec) -> tuple[Any, str]:
        calls.append(len(calls))
        if len(calls) % 3:
            raise DataError("not mounted")
        return None, "info"

    monkeypatch.setattr("inarch.population.training.run_preparation.prepare", prepare)
    monkeypatch.setattr(remote_tasks, "READ_AGAIN_SECONDS", 0.01)
    assert remote_tasks.prepare_patiently(spec, 60.0) == (None, "info") and len(calls) == 3
    with pytest.raises(DataError, match="not mounted"):
        remote_tasks.prepare_patiently(spec, 0.0)
    assert len(calls) == 4
