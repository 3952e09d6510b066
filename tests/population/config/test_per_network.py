"""Numbers that differ between networks: as configured, recorded and perturbed."""

from __future__ import annotations

import json

import pytest
import tyro

from inarch.experiments.recipes import recipe
from inarch.population.config import OptimizerConfig, RunConfig, from_dict, to_dict
from inarch.population.config.per_network import NumberRule, number, number_fields, text_of


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["0.05"], 0.05),
        (["0.1", "0.2", "0.3", "0.4"], (0.1, 0.2, 0.3, 0.4)),
        (["uniform(0.1, 0.2)"], "uniform(0.1, 0.2)"),
    ],
)
def test_command_line_takes_numbers_lists_and_distributions(words: list[str], value: object) -> None:
    arguments = ["--optimizer.learning-rate", *words, "--optimizer.momentum", "0.8"]
    config = tyro.cli(RunConfig, default=recipe("digits"), args=arguments)
    assert (config.optimizer.learning_rate, config.optimizer.momentum) == (value, 0.8)
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_recorded_learning_rates_of_earlier_versions_are_read() -> None:
    for rates, value in (("same", 0.3), ("spread", "spread(0.3)"), ([0.1, 0.2, 0.3, 0.4], (0.1, 0.2, 0.3, 0.4))):
        recorded = {"optimizer": {"learning_rate": 0.3, "learning_rates": rates}}
        assert from_dict(RunConfig, recorded).optimizer.learning_rate == value


def test_every_number_of_the_optimizer_may_differ() -> None:
    names = [item.name for item in number_fields(RunConfig())]
    assert {f"optimizer.{name}" for name in ("learning_rate", "momentum", "weight_decay", "label_smoothing")} <= set(
        names
    )


def test_perturbed_numbers_stay_in_their_range() -> None:
    share, momentum = NumberRule(high=1.0), NumberRule(high=1.0, perturbs="distance_to_1")
    assert (share.perturbed(0.5, 1.2), share.perturbed(0.9, 1.2), share.perturbed(0.0, 1.2)) == (0.6, 0.9, 0.0)
    assert momentum.perturbed(0.9, 0.5) == pytest.approx(0.95)
    assert momentum.perturbed(0.9, 2.0) == pytest.approx(0.8)
    assert momentum.perturbed(0.1, 1.2) == 0.1, "a negative momentum is not valid"
    assert NumberRule(high=1.0, includes_high=True).perturbed(0.5, 2.0) == 1.0


def test_value_of_a_population_is_no_number_of_a_network() -> None:
    assert number(OptimizerConfig().weight_decay) == 5e-4
    with pytest.raises(TypeError, match="network_config"):
        number("uniform(0, 1)")
    assert (text_of(0.1), text_of((0.1, 0.25)), text_of("uniform(0, 1)")) == ("0.1", "0.1, 0.25", "uniform(0, 1)")
