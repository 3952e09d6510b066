"""Networks with hyperparameters of their own on a Ray cluster: shown, recorded, and kept by a new process."""

from __future__ import annotations

import os
import signal

import pytest

from inarch.population import OptimizerConfig, PopulationConfig, RegularizationConfig
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage
from inarch.population.state.hyperparameters import hyperparameters
from inarch.population.tasks.run_folder import read_config, recorded_config
from tests.integration.runs import intervals, paced, until

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


@pytest.mark.slow
def test_networks_keep_their_own_numbers_after_a_kill(begin) -> None:
    optimizer = OptimizerConfig(learning_rate=(0.02, 0.05), weight_decay="log_uniform(1e-5, 1e-3)")
    regularization = RegularizationConfig(mixup="uniform(0.1, 0.4)", mix_probability=0.5)
    population = PopulationConfig(size=2)
    run = begin("diverse", **paced(10, 0.1, population=population, optimizer=optimizer, regularization=regularization))
    until(lambda: min(intervals(run.status()).values(), default=0) >= 2)
    before = {network.network_id: network for network in run.status().networks}
    process = before[1].process
    assert process is not None
    os.kill(process, signal.SIGKILL)
    until(lambda: run.status().networks[1].incarnation == 2)
    result = run.wait(seconds=120)

    storage = Storage(run.path)
    config = recorded_config(storage, read_config(storage))
    expected = {network_id: hyperparameters(config, network_id) for network_id in (0, 1)}
    assert [expected[number]["optimizer.learning_rate"] for number in (0, 1)] == [0.02, 0.05]
    assert all(expected[0][name] != expected[1][name] for name in expected[0])
    assert set(expected[0]) == {"optimizer.learning_rate", "optimizer.weight_decay", "regularization.mixup"}
    assert {number: dict(network.hyperparameters) for number, network in before.items()} == expected
    assert result.table is not None
    assert {row["network"]: row["hyperparameters"] for row in result.table["networks"]} == expected
    rows = read_table(storage, "metrics").to_pylist()
    assert {row["incarnation"] for row in rows if row["network"] == 1} == {1, 2}
    for row in rows:
        assert {name: row[name] for name in expected[0]} == expected[row["network"]]
