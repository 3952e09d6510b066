"""Names become objects, and unknown names are errors that list the known ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from inarch.population.config import ExchangeConfig, GraftConfig, TopologyConfig
from inarch.population.errors import ConfigError
from inarch.population.exchange import RULES, exchange_rule
from inarch.population.extension.registry import Registry
from inarch.population.grafting.criteria import layer_information
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.topology import TOPOLOGIES, neighbors
from inarch.population.simulator import Simulator
from tests.conftest import small_config, tiny_splits, tiny_task
from tests.fakes.extension import Halfway


@pytest.fixture
def registry() -> Registry[Callable[[], int]]:
    made: Registry[Callable[[], int]] = Registry("number", "field.number")
    made.register("one")(lambda: 1)
    return made


def test_resolve_returns_registered_objects_and_paths(registry: Registry[Callable[[], int]]) -> None:
    assert registry.resolve("one")() == 1 and registry.names() == ("one",)
    assert registry.resolve("tests.population.extension.test_registry:two")() == 2


def two() -> int:
    return 2


def test_resolve_of_an_unknown_name_lists_the_known_ones(registry: Registry[Callable[[], int]]) -> None:
    with pytest.raises(ConfigError, match=r"field\.number 'three' is unknown; there are one, else module:object"):
        registry.resolve("three")
    with pytest.raises(ConfigError, match=r"field\.number 'nowhere:x' cannot be imported"):
        registry.resolve("nowhere:x")


def test_register_refuses_a_second_object_of_a_name_and_a_colon(registry: Registry[Callable[[], int]]) -> None:
    with pytest.raises(ConfigError, match="there is a number named 'one' already"):
        registry.register("one")(two)
    with pytest.raises(ConfigError, match="must not have a colon"):
        registry.register("a:b")(two)
    registry.register("two")(two)
    registry.register("two")(two)  # a module that is imported again under the same name


def test_register_replaces_a_definition_that_runs_again(registry: Registry[Callable[[], int]]) -> None:
    for value in (2, 3):  # a cell of a notebook that runs twice

        def number(value: int = value) -> int:
            return value

        registry.add("number", number)
    assert registry.resolve("number")() == 3
    registry.close_built_in()
    with pytest.raises(ConfigError, match="there is a number named 'number' already"):
        registry.add("number", lambda: 4)
    registry.remove("number")
    with pytest.raises(ConfigError, match="is unknown"):
        registry.resolve("number")


def test_register_refuses_an_object_of_another_kind(registry: Registry[Callable[[], int]]) -> None:
    with pytest.raises(ConfigError, match=r"field\.number 'three' must be callable, got int"):
        registry.register("three")(3)
    with pytest.raises(ConfigError, match=rf"field\.number '{HERE}:HERE' must be callable, got str"):
        registry.resolve(f"{HERE}:HERE")


def test_rule_instance_is_copied_for_each_network() -> None:
    rule = Halfway(0.25)
    RULES.add("quarter", rule)
    try:
        config = small_config(exchange=ExchangeConfig(rule="quarter"))
        first, second = (exchange_rule(config, pytest.fail) for _ in range(2))
        assert isinstance(first, Halfway) and isinstance(second, Halfway)
        assert len({id(rule), id(first), id(second)}) == 3
        splits = tiny_splits(config)
        result = Simulator(config, lambda: tiny_task(config, splits)).run()
        assert [entry.outcome for entry in result.ledger].count(ExchangeOutcome.GRAFTED) >= 4
    finally:
        RULES.remove("quarter")
    by_path = small_config(exchange=ExchangeConfig(rule=f"{Halfway.__module__}:halfway"))
    assert isinstance(exchange_rule(by_path, pytest.fail), Halfway)
    with pytest.raises(ConfigError, match="must be a rule with takes_scions, information_measure and apply, or a func"):
        RULES.add("nothing", cast("Any", object()))


HERE = "tests.population.extension.test_registry"


def second_before(position: int, size: int, *, round: int, seed: int, config: TopologyConfig) -> list[int]:
    """A topology from outside: each network takes from the second before it."""
    return [position - 2]


def number_of_weights(weight, *, bins: int, name: str) -> float:
    """A criterion from outside."""
    return float(weight.numel())


def test_topology_from_outside_gives_the_donors() -> None:
    config = TopologyConfig(name=f"{HERE}:second_before")
    assert neighbors(config, [3, 5, 8], 8, round=0) == (3,)
    assert "ring" in TOPOLOGIES.names()


def test_topology_and_criterion_from_outside_train_a_population() -> None:
    config = small_config(
        topology=TopologyConfig(name=f"{HERE}:second_before"),
        graft=GraftConfig(criterion=f"{HERE}:number_of_weights"),
    )
    splits = tiny_splits(config)
    result = Simulator(config, lambda: tiny_task(config, splits)).run()
    assert {entry.outcome for entry in result.ledger} >= {"no_neighbor"}, "of two networks neither has a second before"
    config = small_config(graft=GraftConfig(criterion=f"{HERE}:number_of_weights"))
    result = Simulator(config, lambda: tiny_task(config, splits)).run()
    assert [entry.outcome for entry in result.ledger].count(ExchangeOutcome.GRAFTED) >= 4


def test_layer_information_of_a_criterion_from_outside() -> None:
    import torch

    assert layer_information(torch.zeros(4, 3), f"{HERE}:number_of_weights") == 12.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topology": TopologyConfig(name="mesh")}, r"topology\.name 'mesh' is unknown; there are ring, "),
        ({"graft": GraftConfig(criterion="beauty")}, r"graft\.criterion 'beauty' is unknown; there are entropy, l1"),
    ],
)
def test_unknown_topology_or_criterion_is_refused(changes, message: str) -> None:
    config = small_config(**changes)
    with pytest.raises(ConfigError, match=message):
        Simulator(config, lambda: tiny_task(config)).run()
