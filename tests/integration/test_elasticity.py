"""Populations that follow their cluster: nodes that appear, are drained, and leave."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inarch.population import PopulationConfig, TimeoutsConfig
from inarch.population.config import to_dict
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage
from tests.conftest import small_config
from tests.integration.runs import paced, rows_in

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]


def play(scenario: str, storage: Path, **changes: Any) -> dict[str, Any]:
    """Play a scenario of tests/integration/elastic_run.py, and return what it saw."""
    config = small_config(name=scenario, storage=str(storage), **changes)
    words = [sys.executable, "-m", "tests.integration.elastic_run", scenario, json.dumps(to_dict(config))]
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    completed = subprocess.run(words, capture_output=True, text=True, timeout=380, env=environment, check=False)
    assert completed.returncode == 0, completed.stderr[-3000:]
    return json.loads(next(line for line in completed.stdout.splitlines() if line.startswith("{")))


def assert_each_interval_once(path: Path) -> None:
    """Each network has each interval from its first to that of its newest checkpoint in its rows, exactly once."""
    store = CheckpointStore(Storage(str(path)))
    for network_id, rows in rows_in(path).items():
        assert rows == list(range(rows[0], rows[-1] + 1)), network_id
        newest = store.newest(network_id)
        assert newest is not None and newest.id.interval == rows[-1], network_id


def test_population_grows_onto_a_new_node(tmp_path: Path) -> None:
    population = PopulationConfig(size=2, max_size=6, cpus=1.0, scale_to="resources")
    facts = play("grow", tmp_path, **paced(2000, 0.2, population=population))
    assert facts["grown"] == [0, 1, 2, 3, 4, 5], "no more networks than max_size, and none twice"
    assert facts["first_join_seconds"] < 30
    assert len(facts["lost"]) == 2 and facts["waiting"] == facts["lost"]
    assert facts["size_after_loss"] == 6, "lost networks are not replaced by others"
    assert all(network["state"] == "stopped" for network in facts["networks"].values())
    assert_each_interval_once(tmp_path / "grow")
    rows = rows_in(tmp_path / "grow")
    assert rows.keys() == {0, 1, 2, 3, 4, 5}
    assert all(rows[network_id][0] == 1 for network_id in (0, 1))
    assert all(rows[network_id][0] > 1 for network_id in (2, 3, 4, 5)), "newcomers begin where the others are"


def test_waiting_network_is_demand_for_an_autoscaler(tmp_path: Path) -> None:
    population = PopulationConfig(size=2, max_size=4, cpus=1.0, scale_to="autoscaler")
    facts = play("ask", tmp_path, **paced(2000, 0.2, population=population))
    assert facts["demands"] == [[{"CPU": 1.0}, 1]], "one network waits, and Ray sees it"
    assert (facts["size_before"], facts["size_after"]) == (3, 4)
    assert_each_interval_once(tmp_path / "ask")


def test_missing_networks_join_on_a_new_node(tmp_path: Path) -> None:
    population = PopulationConfig(size=4, min_size=2, cpus=1.0)
    facts = play("missing", tmp_path, **paced(2000, 0.2, population=population))
    assert len(facts["first"]) == 2, "min_size networks begin without the others"
    assert facts["all"] == [0, 1, 2, 3], "the missing networks come, and no others"
    assert_each_interval_once(tmp_path / "missing")
    rows = rows_in(tmp_path / "missing")
    assert rows.keys() == {0, 1, 2, 3}
    for network_id, intervals in rows.items():
        assert (intervals[0] == 1) == (network_id in facts["first"]), "newcomers begin where the others are"


def test_networks_move_before_their_place_is_taken_back(tmp_path: Path) -> None:
    """A drained node and SIGTERM lose no step: the next process begins where the one before it ended."""
    facts = play("move", tmp_path, **paced(2000, 0.5, population=PopulationConfig(size=3, cpus=1.0)))
    assert facts["is_elsewhere"]
    assert facts["events"] == ["restart", "restart"], "nothing was lost"
    assert_each_interval_once(tmp_path / "move")
    for network_id in (facts["mover"], facts["victim"]):
        log = (tmp_path / "move" / "logs" / f"network-{network_id}.log").read_text()
        (ended,) = re.findall(r": moved at interval (\d+), step (\d+)", log)
        (began,) = re.findall(r"incarnation 2, .* interval (\d+), step (\d+)", log)
        assert began == ended


def test_barrier_does_not_wait_for_a_network_without_a_place(tmp_path: Path) -> None:
    """Found by chaos seed 314: the others waited for ten minutes, the deadline of the barrier."""
    population = PopulationConfig(size=3, cpus=1.0)
    timeouts = TimeoutsConfig(lease_seconds=5.0)
    facts = play("bereave", tmp_path, **paced(2000, 0.2, population=population, mode="lockstep", timeouts=timeouts))
    assert facts["seconds"] < 60
    assert_each_interval_once(tmp_path / "bereave")


def test_four_networks_take_turns_on_two_places(tmp_path: Path) -> None:
    population = PopulationConfig(size=4, cpus=1.0, time_slicing=True)
    facts = play("turns", tmp_path, **paced(4, 2.0, population=population))
    assert max(facts["idle_seconds"]) < 60, "of a place, from the end of a network to the first step of the next one"
    assert [network["state"] for network in facts["networks"].values()] == ["done"] * 4
    assert facts["most_training"] == 2
    assert 1 <= max(facts["leads"]) <= 2, "a slice, and the interval in which a network is asked to pause"
    assert min(network["incarnation"] for network in facts["networks"].values()) >= 2
    assert rows_in(tmp_path / "turns") == {network_id: [1, 2, 3, 4] for network_id in range(4)}
    table = read_table(Storage(str(tmp_path / "turns")), "exchanges")
    pairs = set(zip(table["network"].to_pylist(), table["scion"].to_pylist(), strict=True))
    assert {(0, 3), (2, 1)} <= pairs, "networks take from their neighbors that pause"
