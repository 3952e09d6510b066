"""Networks with hyperparameters of their own: trained with, copied, recorded and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from inarch.population import (
    CheckpointConfig,
    ExchangeConfig,
    Join,
    OptimizerConfig,
    PbtConfig,
    PopulationConfig,
    RegularizationConfig,
    RunConfig,
    Simulator,
    TopologyConfig,
    Trainer,
)
from inarch.population.config.per_network import LEARNING_RATE, number
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage
from inarch.population.state.hyperparameters import hyperparameters, network_config
from tests.conftest import small_config, tiny_task
from tests.fakes.runtime import FakeRuntime, live

DIVERSE: dict[str, Any] = {
    "optimizer": OptimizerConfig(
        learning_rate=(0.05, 0.02, 0.01),
        momentum="uniform(0.5, 0.9)",
        weight_decay="log_uniform(1e-4, 1e-2)",
        label_smoothing=(0.0, 0.1, 0.2),
    ),
    "regularization": RegularizationConfig(
        mixup="uniform(0.1, 0.4)", cutmix=(0.0, 1.0, 0.5), erasing="choice(0.1, 0.3)"
    ),
    "population": PopulationConfig(size=3),
}
"""Three networks that differ in each field that may differ, but for the chances of mixing."""

PBT: dict[str, Any] = DIVERSE | {
    "exchange": ExchangeConfig(rule="pbt"),
    "pbt": PbtConfig(factors=(0.5, 0.8)),
    "topology": TopologyConfig(name="complete"),
}


def trained(config: RunConfig, network_id: int) -> Trainer:
    trainer = Trainer(tiny_task(config), config, network_id=network_id)
    live(trainer, FakeRuntime())
    return trainer


def test_network_trains_as_one_configured_for_it_alone() -> None:
    config = small_config(**DIVERSE, exchange=ExchangeConfig(rule="none"))
    for network_id in (1, 2):
        alone = trained(network_config(config, network_id), network_id).checkpoint().model
        model = trained(config, network_id).checkpoint().model
        assert all(torch.equal(model[name], alone[name]) for name in alone)


@pytest.mark.parametrize("field", ["momentum", "weight_decay", "label_smoothing"])
def test_each_number_of_the_optimizer_changes_the_training(field: str) -> None:
    states = []
    for values in ((0.0, 0.0), (0.0, 0.3)):
        optimizer = OptimizerConfig(**{"learning_rate": 0.05, field: values})
        config = small_config(optimizer=optimizer, exchange=ExchangeConfig(rule="none"))
        states.append(trained(config, 1).checkpoint().model)
    assert not torch.equal(*(state["linear.weight"] for state in states))


def test_pbt_copies_and_perturbs_every_hyperparameter() -> None:
    config = small_config(**PBT)
    result = Simulator(config, lambda: tiny_task(config)).run()
    copied = {entry.network_id for entry in result.ledger if entry.outcome == "grafted"}
    assert copied
    for network_id in copied:
        trainer = result.trainers[network_id]
        values, initial = trainer.progress.hyperparameters, hyperparameters(config, network_id)
        assert values.keys() == initial.keys()
        changed = {name for name in values if values[name] != initial[name]}
        assert {LEARNING_RATE, "optimizer.momentum", "optimizer.weight_decay", "regularization.mixup"} <= changed
        own = trainer.task.config
        assert number(own.regularization.mixup) == values["regularization.mixup"]
        group = trainer.optimizer.param_groups[0]
        assert (group["momentum"], group["weight_decay"]) == (
            values["optimizer.momentum"],
            values["optimizer.weight_decay"],
        )
        resumed = Trainer(tiny_task(config), config, network_id=network_id)
        resumed.resume(trainer.checkpoint())
        assert resumed.progress.hyperparameters == values
        assert resumed.task.config == own
        assert resumed.optimizer.param_groups[0]["momentum"] == group["momentum"]


def test_resume_reads_the_learning_rate_of_an_earlier_version() -> None:
    config = small_config(**PBT)
    trainer = Trainer(tiny_task(config), config, network_id=1)
    checkpoint = trainer.checkpoint()
    del checkpoint.training["hyperparameters"]  # pyright: ignore[reportIndexIssue] # a dict
    checkpoint.training["learning_rate"] = 0.004  # pyright: ignore[reportIndexIssue]
    trainer.resume(checkpoint)
    assert trainer.progress.hyperparameters == hyperparameters(config, 1) | {LEARNING_RATE: 0.004}


@pytest.mark.parametrize("rule", ["graft", "pbt"])
def test_clone_has_its_own_numbers_unless_pbt_searches_them(rule: str) -> None:
    config = small_config(**(PBT | {"exchange": ExchangeConfig(rule=rule)}))
    parent = Trainer(tiny_task(config), config, network_id=0)
    clone = Trainer(tiny_task(config), config, network_id=4)
    own = hyperparameters(config, 4)
    clone.clone_from(parent.snapshot())
    assert clone.progress.hyperparameters == (parent.progress.hyperparameters if rule == "pbt" else own)
    assert own != parent.progress.hyperparameters


def test_history_holds_the_numbers_of_each_interval(tmp_path: Path) -> None:
    config = small_config(**PBT, checkpoint=CheckpointConfig(every=2))
    store = CheckpointStore(Storage(str(tmp_path)))
    result = Simulator(config, lambda: tiny_task(config), checkpoints=store, events=(Join(seconds=4.0),)).run()
    rows = read_table(Storage(str(tmp_path)), "metrics").to_pylist()
    assert len(rows) == sum(len(reports) for reports in result.reports.values())
    for row in rows:
        report = result.reports[row["network"]][row["interval"] - result.reports[row["network"]][0].origin.interval]
        assert {name: row[name] for name in hyperparameters(config, 0)} == report.origin.hyperparameters
    first = {row["network"]: row for row in rows if row["interval"] == 1}
    for network_id in range(3):
        assert hyperparameters(config, network_id).items() <= first[network_id].items()
    name = "optimizer.weight_decay"
    assert any(row[name] != first[row["network"]][name] for row in rows if row["network"] in first)
