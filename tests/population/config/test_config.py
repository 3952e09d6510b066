"""Configurations are validated on construction and survive a round trip through JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from inarch.experiments.recipes import RECIPES, recipe
from inarch.population import (
    CheckpointConfig,
    DataConfig,
    DeviceConfig,
    ExchangeConfig,
    GraftConfig,
    MetricsConfig,
    OptimizerConfig,
    PopulationConfig,
    RunConfig,
    ScheduleConfig,
    StalenessConfig,
    StragglerConfig,
    TimeoutsConfig,
    TopologyConfig,
    WeightAveragingConfig,
)
from inarch.population.config import from_dict, to_dict
from inarch.population.errors import ConfigError
from inarch.population.state.seeding import derive_seed
from inarch.population.training.schedule import Schedule


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (GraftConfig, {"a": 1.4}, r"graft\.a must lie in \[0, 1\], got 1\.4"),
        (
            GraftConfig,
            {"level": "filter", "criterion": "orthogonality"},
            r"graft\.criterion must be one of entropy, l1, batch_norm, constant, random with graft\.level filter",
        ),
        (GraftConfig, {"bins": 1}, r"graft\.bins must be at least 2"),
        (PopulationConfig, {"size": 0}, r"population\.size must be at least 1, got 0"),
        (PopulationConfig, {"size": 2, "min_size": 3}, r"population\.min_size"),
        (PopulationConfig, {"size": 4, "max_size": 3}, r"population\.max_size"),
        (PopulationConfig, {"slice_intervals": 0}, r"population\.slice_intervals must be at least 1"),
        (
            RunConfig,
            {"mode": "lockstep", "population": PopulationConfig(time_slicing=True)},
            r"population\.time_slicing must be off with mode=lockstep",
        ),
        (PopulationConfig, {"scale_to": "nodes"}, r"population\.scale_to must be one of size, resources, autoscaler"),
        (
            RunConfig,
            {"population": PopulationConfig(scale_to="resources"), "metrics": MetricsConfig(per_network=True)},
            r"metrics\.per_network must be off without population\.scale_to size and without population\.max_size",
        ),
        (CheckpointConfig, {"every_seconds": -1.0}, r"checkpoint\.every_seconds must be at least 0"),
        (
            RunConfig,
            {"mode": "lockstep", "checkpoint": CheckpointConfig(every_seconds=5.0)},
            r"checkpoint\.every_seconds must be 0 with mode=lockstep",
        ),
        (
            DeviceConfig,
            {"compile_mode": "reduce-overhead"},
            r"device\.compile_mode must be default unless device\.compile",
        ),
        (DeviceConfig, {"compile": True, "compile_mode": "fast"}, r"device\.compile_mode must be one of default"),
        (DeviceConfig, {"mps": "yes"}, r"device\.mps must be one of off, auto, on"),
        (
            RunConfig,
            {"device": DeviceConfig(mps="on"), "population": PopulationConfig(gpus=1.0)},
            r"device\.mps must be off or auto with population\.gpus 1\.0, got 'on'",
        ),
        (PopulationConfig, {"gpus": 1.5}, r"population\.gpus must lie in \[0, 1\]"),
        (ScheduleConfig, {"epochs": 0}, r"schedule\.epochs"),
        (OptimizerConfig, {"learning_rate": float("nan")}, r"optimizer\.learning_rate"),
        (OptimizerConfig, {"learning_rate": (0.1, -0.1)}, r"optimizer\.learning_rate must be above 0, as one number"),
        (OptimizerConfig, {"learning_rate": ()}, r"optimizer\.learning_rate must be above 0"),
        (OptimizerConfig, {"momentum": 1.0}, r"optimizer\.momentum must lie in \[0, 1\), got 1\.0"),
        (
            OptimizerConfig,
            {"momentum": None},
            r"optimizer\.momentum must be a number, a list of numbers, or a distribution such as .*, got None",
        ),
        (OptimizerConfig, {"weight_decay": "uniform(0, inf)"}, r"optimizer\.weight_decay must be at least 0"),
        (OptimizerConfig, {"weight_decay": "uniform(2, 1)"}, "uniform takes two numbers, the lower first"),
        (OptimizerConfig, {"weight_decay": "log_uniform(0, 1)"}, "log_uniform takes two numbers above 0"),
        (OptimizerConfig, {"weight_decay": "normal(0, 1)"}, "no distribution 'normal'; there are uniform"),
        (OptimizerConfig, {"label_smoothing": "0.1; 0.2"}, r"must be a distribution such as uniform\(0, 0\.4\)"),
        (OptimizerConfig, {"label_smoothing": "choice(0.1, x)"}, "choice takes numbers with commas"),
        (OptimizerConfig, {"nesterov": True, "momentum": 0.0}, r"optimizer\.nesterov"),
        (OptimizerConfig, {"nesterov": True, "momentum": "choice(0, 0.9)"}, r"optimizer\.nesterov"),
        (
            RunConfig,
            {"optimizer": OptimizerConfig(momentum="uniform(0, 0.9)"), "graft": GraftConfig(momentum="blend")},
            r"graft\.momentum must be keep or reset if optimizer\.momentum is 0 in some networks",
        ),
        (DataConfig, {"validation": 0.7}, r"data\.validation"),
        (StalenessConfig, {"rate": -1.0}, r"staleness\.rate"),
        (TopologyConfig, {"name": "edges"}, r"topology\.edges"),
        (TopologyConfig, {"name": "edges", "edges": ((1, 1),)}, r"topology\.edges"),
        (CheckpointConfig, {"keep": 1}, r"checkpoint\.keep"),
        (TimeoutsConfig, {"fetch_seconds": 0.0}, r"timeouts\.fetch_seconds"),
        (StragglerConfig, {"slowdowns": (0.0,)}, r"debug\.straggler\.slowdowns"),
        (GraftConfig, {"scion": "noise", "level": "filter"}, r"graft\.level must be layer with graft\.scion noise"),
        (GraftConfig, {"scion": "internal", "channel_matching": "weights"}, r"graft\.channel_matching must be none"),
        (GraftConfig, {"scion": "internal", "momentum": "blend"}, r"graft\.momentum must be keep or reset"),
        (GraftConfig, {"scion": "noise", "batch_norm": "reset"}, r"graft\.batch_norm must be blend"),
        (GraftConfig, {"scion": "internal", "criterion": "random"}, r"graft\.criterion must be entropy or l1"),
        (
            RunConfig,
            {"graft": GraftConfig(scion="noise"), "exchange": ExchangeConfig(num_donors=2)},
            r"exchange\.num_donors must be None with graft\.scion noise",
        ),
        (GraftConfig, {"weight_alpha": "mean"}, r"graft\.weight_alpha must be product without graft\.level filter"),
        (
            GraftConfig,
            {"level": "filter", "criterion": "l1", "units": "matrices"},
            r"graft\.units must be auto or convolutions",
        ),
        (
            RunConfig,
            {"exchange": ExchangeConfig(rule="graft_published"), "graft": GraftConfig(units="matrices")},
            r"graft\.units must be auto or convolutions with exchange\.rule graft_published",
        ),
        (
            RunConfig,
            {"exchange": ExchangeConfig(rule="graft_published", num_donors=2)},
            r"exchange\.num_donors must be 1 with exchange\.rule graft_published",
        ),
        (
            RunConfig,
            {
                "exchange": ExchangeConfig(rule="graft_published"),
                "graft": GraftConfig(level="filter", criterion="l1"),
            },
            r"graft\.criterion must be batch_norm with exchange\.rule graft_published at level filter",
        ),
        (
            RunConfig,
            {"exchange": ExchangeConfig(rule="pbt"), "weight_averaging": WeightAveragingConfig(kind="ema")},
            r"weight_averaging\.kind must be none with exchange\.rule pbt",
        ),
        (ScheduleConfig, {"epochs": 3, "warmup_epochs": 3}, r"schedule\.warmup_epochs must be .* fewer than epochs"),
        (RunConfig, {"mode": "sync"}, "mode must be one of async, lockstep"),
        (RunConfig, {"name": "a/b"}, "name must consist"),
        (RunConfig, {"optimizer": OptimizerConfig(learning_rate=(0.1,))}, "have at least 4 numbers"),
    ],
)
def test_config_error_names_the_field_the_rule_and_the_value(kind, fields, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**fields)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_survives_a_json_round_trip(name: str) -> None:
    config = recipe(name)
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_nested_tuples_survive_a_json_round_trip() -> None:
    config = RunConfig(
        topology=TopologyConfig(name="edges", edges=((0, 1), (1, 0))),
        optimizer=OptimizerConfig(learning_rate=(0.1, 0.2, 0.3, 0.4), momentum="uniform(0.8, 0.95)"),
        staleness=StalenessConfig(max_intervals=3),
    )
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_unknown_field_or_recipe_is_named_in_the_error() -> None:
    with pytest.raises(ConfigError, match=r"graft\. has no field 'alpha'"):
        from_dict(RunConfig, {"graft": {"alpha": 1}})
    with pytest.raises(ConfigError, match="no recipe 'nope'"):
        recipe("nope")


def test_schedule_factors_match_values_by_hand() -> None:
    milestones = Schedule(config=ScheduleConfig(epochs=300, step_at=(150, 225)), steps_per_epoch=10)
    assert [milestones.factor(10 * epoch) for epoch in (0, 149, 150, 224, 225, 299)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    with pytest.raises(ConfigError, match=r"schedule\.step_at must be ascending"):
        ScheduleConfig(step_at=(5, 5))
    step = Schedule(config=ScheduleConfig(epochs=200, step_epochs=60), steps_per_epoch=10)
    assert [step.factor(s) for s in (0, 599, 600, 1200)] == [1.0, 1.0, 0.1, pytest.approx(0.01)]
    cosine = Schedule(config=ScheduleConfig(epochs=10, lr_decay="cosine", warmup_epochs=1), steps_per_epoch=10)
    assert cosine.factor(0) == 0.1
    assert cosine.factor(9) == 1.0
    assert cosine.factor(55) == pytest.approx(0.5)
    odd = Schedule(config=ScheduleConfig(epochs=3, interval_steps=7), steps_per_epoch=5)
    assert (odd.num_steps, odd.num_intervals) == (15, 3)
    assert [odd.end(k) for k in (1, 2, 3)] == [7, 14, 15]


def test_derive_seed_is_unique_for_each_network_and_use() -> None:
    uses = ("weights", "order", "augmentation", "training")
    seeds = {derive_seed(root, network_id, use) for root in (0, 1) for network_id in range(5) for use in uses}
    assert len(seeds) == 40
    assert derive_seed(3, 2, "order") == derive_seed(3, 2, "order")


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (ScheduleConfig, {"epochs": "ten"}, r"schedule\.epochs must be a whole number, got 'ten'"),
        (ScheduleConfig, {"epochs": 2.5}, r"schedule\.epochs must be a whole number, got 2\.5"),
        (ScheduleConfig, {"batch_size": True}, r"schedule\.batch_size must be a whole number, got True"),
        (GraftConfig, {"a": None}, r"graft\.a must be a number, got None"),
        (DataConfig, {"train": 3}, r"data\.train must be text, got 3"),
        (DataConfig, {"image_size": "32"}, r"data\.image_size must be a whole number or a list of 2 whole numbers or"),
        (TopologyConfig, {"edges": [[1, "x"]]}, r"topology\.edges must be a list of lists of 2 whole numbers"),
        (MetricsConfig, {"per_network": "yes"}, r"metrics\.per_network must be True or False"),
        (RunConfig, {"track": "mlflow"}, "track must be a list of texts, got 'mlflow'"),
        (RunConfig, {"schedule": 3}, "schedule must be a ScheduleConfig, got 3"),
    ],
)
def test_value_of_another_type_is_refused(kind, fields, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**fields)


def test_paths_and_arrays_become_plain_values() -> None:
    epochs, steps, folder, momentum = cast("list[Any]", [np.int64(3), [1, 2], Path("images"), np.float32(0.5)])
    schedule = ScheduleConfig(epochs=epochs, step_at=steps)
    rates = OptimizerConfig(learning_rate=cast("Any", np.linspace(0.1, 0.4, 4)), momentum=momentum)
    config = RunConfig(data=DataConfig(train=folder), schedule=schedule, optimizer=rates)
    assert (type(config.schedule.epochs), config.schedule.step_at) == (int, (1, 2))
    assert (config.optimizer.learning_rate, config.optimizer.momentum) == (
        tuple(np.linspace(0.1, 0.4, 4).tolist()),
        0.5,
    )
    assert config.data.train == "images"
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config)))) == config
