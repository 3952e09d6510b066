"""Each network's own numbers, drawn from the seed tree."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from inarch.population.config import OptimizerConfig, PopulationConfig, RunConfig
from inarch.population.config.per_network import LEARNING_RATE, number
from inarch.population.state.hyperparameters import hyperparameters, network_config


def config_of(size: int = 4, seed: int = 0, **optimizer: Any) -> RunConfig:
    return RunConfig(seed=seed, population=PopulationConfig(size=size), optimizer=OptimizerConfig(**optimizer))


def drawn(field: str, text: str, *, networks: int = 200, **others: Any) -> list[float]:
    config = config_of(**{field: text}, **others)
    return [hyperparameters(config, network_id)[f"optimizer.{field}"] for network_id in range(networks)]


def test_plain_numbers_are_those_of_all_networks() -> None:
    config = config_of(learning_rate=1)
    assert hyperparameters(config, 3) == {LEARNING_RATE: 1.0}
    assert network_config(config, 3) == config


def test_list_gives_each_network_its_number_and_repeats() -> None:
    config = config_of(size=2, weight_decay=(0.1, 0.2, 0.3))
    values = [number(network_config(config, network_id).optimizer.weight_decay) for network_id in range(7)]
    assert values == [0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.1]


def test_spread_learning_rates_equal_those_of_the_paper() -> None:
    rates = drawn("learning_rate", "spread(0.1)", networks=5)
    assert [round(rate, 4) for rate in rates] == [0.0146, 0.05, 0.0854, 0.1, 0.0146]


def test_draws_follow_their_distribution() -> None:
    uniform = drawn("momentum", "uniform(0.2, 0.6)")
    assert 0.2 <= min(uniform) < 0.25 and 0.55 < max(uniform) <= 0.6
    assert sum(uniform) / 200 == pytest.approx(0.4, abs=0.03)
    decays = [math.log10(value) for value in drawn("weight_decay", "log_uniform(1e-5, 1e-1)")]
    assert -5 <= min(decays) < -4.7 and -1.3 < max(decays) <= -1
    assert sum(decays) / 200 == pytest.approx(-3, abs=0.3)
    assert set(drawn("label_smoothing", "choice(0, 0.1, 0.2)")) == {0.0, 0.1, 0.2}
    assert set(drawn("learning_rate", "log_uniform(0.1, 0.1)")) == {0.1}


def test_draw_depends_on_seed_network_and_field_only() -> None:
    first = drawn("momentum", "uniform(0, 0.5)", networks=8)
    assert len(set(first)) == 8
    others = {"weight_decay": "uniform(0, 0.5)", "learning_rate": "uniform(0.1, 0.2)"}
    assert drawn("momentum", "uniform(0, 0.5)", networks=8, size=8, **others) == first
    assert drawn("momentum", "uniform(0, 0.5)", networks=8, seed=1) != first
    assert drawn("weight_decay", "uniform(0, 0.5)", networks=8) != first


def test_networks_differ_in_nothing_but_their_numbers() -> None:
    config = config_of(momentum="uniform(0.5, 0.9)", weight_decay=(0.0, 0.1, 0.2, 0.3))
    own = network_config(config, 2)
    assert dataclasses.replace(own, optimizer=config.optimizer) == config
    assert number(own.optimizer.weight_decay) == 0.2 and 0.5 <= number(own.optimizer.momentum) <= 0.9
