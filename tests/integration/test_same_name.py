"""Runs of one name in several folders, and callbacks of runs that are not waited for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from inarch import OpenConfig, PopulationRun, RunCallback, RunResult
from inarch.actors.guest.join import connect_to_run
from inarch.population.errors import RunNotFoundError
from inarch.population.persistence.json_files import to_json
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_folder import read_config

pytestmark = [pytest.mark.ray]


class Finish(RunCallback):
    """Records how the run ended."""

    def __init__(self) -> None:
        self.results: list[RunResult | None] = []

    def on_finish(self, result: RunResult | None) -> None:
        self.results.append(result)


def test_run_of_another_folder_is_not_taken_for_this_one(cluster: str, tmp_path: Path) -> None:
    """Two folders may hold runs of one name, of which one has ended."""
    finish = Finish()
    settings = OpenConfig(every=10, idle_seconds=60.0)
    with PopulationRun.open("same", settings, storage=f"{tmp_path}/live", callbacks=[finish], quiet=True) as run:
        assert PopulationRun.attach("same", storage=f"{tmp_path}/live").status().name == "same"
        shutil.copytree(tmp_path / "live", tmp_path / "ended")
        other = Storage(f"{tmp_path}/ended/same")
        content = {key: value for key, value in read_config(other).items() if key != "checksum"}
        other.replace("config.json", to_json(content | {"id": "another"}))
        message = "has ended; a run of the same name in another folder is live on this cluster"
        with pytest.raises(RunNotFoundError, match=message):
            PopulationRun.attach("same", storage=f"{tmp_path}/ended")
        with pytest.raises(RunNotFoundError, match=message):
            connect_to_run(other.uri)
        assert connect_to_run(f"{tmp_path}/live/same") == "same"
        assert run.is_live()
    assert len(finish.results) == 1


def test_callbacks_finish_in_a_with_block_that_does_not_wait(cluster: str, tmp_path: Path) -> None:
    finish = Finish()
    settings = OpenConfig(every=10, idle_seconds=0.5)
    with PopulationRun.open("idle", settings, storage=str(tmp_path), callbacks=[finish], quiet=True) as run:
        kinds = [event.kind for event in run.events()]
        assert not run.is_live() and finish.results == []
    assert "finish" in kinds and len(finish.results) == 1 and finish.results[0] is not None
