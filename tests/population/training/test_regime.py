"""Decay time and total pull against what torch's optimizers, the rules and whole populations do."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from inarch.population import (
    ExchangeConfig,
    GraftConfig,
    OptimizerConfig,
    PapaConfig,
    PopulationConfig,
    RunConfig,
    ScheduleConfig,
    Simulator,
    TopologyConfig,
    WashConfig,
)
from inarch.population.config import from_dict
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage
from inarch.population.state.hyperparameters import network_config
from inarch.population.state.optimizer import make_optimizer
from inarch.population.state.state_dict import named_tensors
from inarch.population.tasks.run_spec import RunInfo
from inarch.population.training.regime import regime, sizes_of, wash_shares
from inarch.population.training.run_preparation import describe_run
from inarch.population.training.schedule import Schedule
from tests.conftest import small_config, tiny_splits, tiny_task

STILL = OptimizerConfig(learning_rate=1e-12, weight_decay=0.0)
"""Networks that change by their exchanges alone."""


def norm_after_training(config: RunConfig, *, steps_per_epoch: int, network_id: int) -> float:
    """Return the norm of a weight of norm 1 that never has a gradient, after the whole schedule."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    schedule = Schedule(config=config.schedule, steps_per_epoch=steps_per_epoch)
    optimizer = make_optimizer(module, network_config(config, network_id))
    rate = optimizer.defaults["lr"]
    module.weight.grad = torch.zeros_like(module.weight)
    for step in range(schedule.num_steps):
        optimizer.param_groups[0]["lr"] = rate * schedule.factor(step)
        optimizer.step()
    return float(module.weight.detach())


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [
        ({"momentum": 0.9, "weight_decay": 5e-3}, {"lr_decay": "cosine", "warmup_epochs": 2}),
        ({"momentum": 0.9, "weight_decay": 5e-3, "nesterov": True}, {"lr_decay": "constant"}),
        (
            {"momentum": 0.0, "weight_decay": 2e-2, "learning_rate": "spread(0.1)"},
            {"step_at": (4, 8), "warmup_epochs": 1},
        ),
        ({"momentum": (0.0, 0.8), "weight_decay": "log_uniform(1e-2, 2e-2)"}, {"lr_decay": "constant"}),
        ({"name": "adamw", "weight_decay": 2e-2}, {"lr_decay": "cosine", "warmup_epochs": 2}),
    ],
)
def test_weights_without_gradient_decay_by_the_decay_time(optimizer: Any, schedule: Any) -> None:
    config = RunConfig(
        population=PopulationConfig(size=2),
        optimizer=OptimizerConfig(**({"learning_rate": 0.1} | optimizer)),
        schedule=ScheduleConfig(epochs=12, **schedule),
    )
    least, greatest = regime(config, steps_per_epoch=50).decay_times
    assert greatest > 0.3
    times = [-math.log(norm_after_training(config, steps_per_epoch=50, network_id=network)) for network in (0, 1)]
    assert [least, greatest] == pytest.approx(sorted(times), rel=0.04)


def test_decay_time_is_12_in_the_papers() -> None:
    config = RunConfig(schedule=ScheduleConfig(epochs=200, batch_size=128, lr_decay="cosine"))
    papers = regime(config, steps_per_epoch=391)
    assert papers.decay_time == pytest.approx(0.05 * 5e-4 / 0.1 * 78_200, rel=1e-3)
    assert papers.lines()[0].startswith(
        "weight decay: D = 19.6 over 78,200 steps; a weight without gradient keeps less"
    )
    none = dataclasses.replace(config, optimizer=OptimizerConfig(weight_decay=0.0))
    assert regime(none, steps_per_epoch=391).lines()[0] == "weight decay: none (D = 0)"


def exchanging(rule: str, **changes: Any) -> RunConfig:
    """Configure two networks in lockstep that differ and change by their exchanges alone."""
    fields: dict[str, Any] = {
        "mode": "lockstep",
        "exchange": ExchangeConfig(rule=rule),
        "topology": TopologyConfig(name="complete"),
        "optimizer": STILL,
        "schedule": ScheduleConfig(epochs=2, batch_size=32, interval_steps=1, eval_every="epoch", lr_decay="cosine"),
    }
    return small_config(**(fields | changes))


def difference(states: list[dict[str, torch.Tensor]]) -> float:
    names = [name for name, value in states[0].items() if value.is_floating_point() and "running" not in name]
    return math.hypot(*(float((states[0][name] - states[1][name]).norm()) for name in names))


def test_papa_leaves_the_planned_share_of_a_difference() -> None:
    config = exchanging("papa", papa=PapaConfig(pull=0.2))
    splits = tiny_splits(config)
    initial = [
        {name: value.clone() for name, value in named_tensors(tiny_task(config, splits).build(seed)).items()}
        for seed in (0, 1)
    ]
    trainers = Simulator(config, lambda: tiny_task(config, splits)).run().trainers
    planned = regime(config, steps_per_epoch=trainers[0].schedule.steps_per_epoch)
    assert planned.num_exchanges == trainers[0].progress.grafts == 6
    assert planned.remaining == pytest.approx(
        math.prod(1 - 0.2 * (1 + math.cos(math.pi * k / 6)) / 2 for k in range(6))
    )
    final = difference([dict(named_tensors(trainers[number].module)) for number in (0, 1)])
    assert final / difference(initial) == pytest.approx(planned.remaining, rel=0.05)


def test_wash_moves_the_planned_share_of_the_weights(tmp_path: Path) -> None:
    config = exchanging("wash", wash=WashConfig(probability=0.3))
    splits = tiny_splits(config)
    store = CheckpointStore(Storage(str(tmp_path)))
    trainer = Simulator(config, lambda: tiny_task(config, splits), checkpoints=store).run().trainers[0]
    store.flush_history()
    moved = read_table(Storage(str(tmp_path)), "grafts")["alpha"].to_pylist()
    sizes = sizes_of(trainer.units, named_tensors(trainer.module))
    with_averages = [dataclasses.replace(unit, keys=(*unit.keys, f"exp_avg.{unit.name}")) for unit in trainer.units]
    assert sizes_of(with_averages, named_tensors(trainer.module)) == sizes
    planned = regime(config, steps_per_epoch=trainer.schedule.steps_per_epoch, unit_sizes=sizes)
    assert planned.total_pull == pytest.approx(sum(1 - alpha for alpha in moved) / 2, rel=0.02)
    assert wash_shares(0.5, 3, [4]) == pytest.approx((3 * (1 - math.exp(-0.5)), math.exp(-1.5)))


def test_regime_says_how_often_a_network_exchanges() -> None:
    base = RunConfig(schedule=ScheduleConfig(epochs=30, batch_size=32))
    steady = ScheduleConfig(epochs=12, batch_size=32, interval_steps=10, lr_decay="constant")
    ring_of_four = {"exchange": ExchangeConfig(rule="papa"), "schedule": steady}
    pairs = {"topology": TopologyConfig(name="bidirectional_ring")}
    texts = {
        "graft 29 times, about half of the weights each time, 14.5 times all in sum (less for stale scions)": {},
        "graft 30 times, about half of the weights each time, 15.0 times all in sum (less for stale scions)": {
            "mode": "lockstep"
        },
        "none": {"population": PopulationConfig(size=1)},
        "graft 29 times, with nothing from other networks": {"graft": GraftConfig(scion="noise")},
        "pbt 29 times": {"exchange": ExchangeConfig(rule="pbt")},
        "papa pulls 95 times by 1 % (in sum 95 %); 38% of a difference to the mean would remain without training": {
            **ring_of_four,
            "topology": TopologyConfig(name="complete"),
        },
        "papa pulls 95 times by 2 % (in sum 190 %); 15% of a difference to the mean would remain without training": {
            **ring_of_four,
            "papa": PapaConfig(pull=0.02),
        },
        "papa pulls 95 times by 1 % (in sum 95 %), each toward the mean of its own neighbors": ring_of_four | pairs,
        "papa pulls 95 times by 20 % (in sum 1,900 %), each toward the mean of its own neighbors": ring_of_four
        | {"papa": PapaConfig(pull=0.2), "exchange": ExchangeConfig(rule="papa", num_donors=1)},
    }
    for text, changes in texts.items():
        config = dataclasses.replace(base, **changes)
        assert regime(config, steps_per_epoch=80).exchange_text() == text


def test_run_info_holds_the_regime_through_json() -> None:
    config = small_config()
    info = describe_run(tiny_task(config))
    assert info.regime is not None and info.regime.num_exchanges == 3
    assert from_dict(RunInfo, json.loads(json.dumps(dataclasses.asdict(info)))).regime == info.regime
