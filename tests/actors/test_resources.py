"""The share of a cluster that each network gets, and the populations that a cluster cannot place."""

from __future__ import annotations

from typing import Any

import pytest

from inarch.actors.resources import check_capacity, plan_resources
from inarch.population.config import OptimizerConfig, PopulationConfig, RunConfig
from inarch.population.errors import ResourceError


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that says what the nodes of the cluster have, each as (CPUs, GPUs)."""

    def have(*sizes: tuple[float, float]) -> None:
        resources = [{"CPU": cpus, "GPU": gpus} for cpus, gpus in sizes]
        total = {kind: sum(node[kind] for node in resources) for kind in ("CPU", "GPU")}
        alive = [{"Alive": True, "Resources": node} for node in resources]
        monkeypatch.setattr("inarch.actors.resources.ray.cluster_resources", lambda: total)
        monkeypatch.setattr("inarch.actors.resources.ray.nodes", lambda: alive)

    return have


def config_of(**fields: Any) -> RunConfig:
    return RunConfig(population=PopulationConfig(**fields))


@pytest.mark.parametrize(
    ("sizes", "networks", "gpus"),
    [
        ([(8, 0)], 4, 0.0),
        ([(8, 4)], 4, 1.0),
        ([(8, 8)], 4, 1.0),
        ([(8, 2)], 4, 0.5),
        ([(8, 2)], 5, 1 / 3),
        ([(8, 1), (8, 1)], 4, 0.5),
        ([(8, 0.5)], 1, 0.5),
        ([(8, 0.5)], 2, 0.25),
    ],
)
def test_networks_share_the_gpus_evenly(nodes, sizes, networks: int, gpus: float) -> None:
    nodes(*sizes)
    assert plan_resources(config_of(size=networks)).gpus == pytest.approx(gpus)


def test_network_reserves_a_quarter_of_its_share_of_the_cpus(nodes) -> None:
    """It computes with its whole share, and the population can grow to four times its size."""
    nodes((8, 0))
    placement = plan_resources(config_of(size=4))
    assert (placement.cpus, placement.threads) == (0.5, 2)
    elastic = plan_resources(config_of(size=4, scale_to="resources", max_size=8))
    assert (elastic.cpus, elastic.threads) == (2.0, 2)
    given = plan_resources(config_of(size=4, cpus=1.5))
    assert (given.cpus, given.threads) == (1.5, 1)


def test_population_that_no_cluster_could_place_is_refused(nodes) -> None:
    nodes((4, 1), (4, 1))
    config = RunConfig(
        population=PopulationConfig(size=2, cpus=3.0), optimizer=OptimizerConfig(learning_rate=(0.1, 0.2))
    )
    placement = plan_resources(config)
    check_capacity(config, placement, size=2)
    with pytest.raises(ResourceError, match=r"8 CPUs and 2 GPUs; 3 networks with 3 CPUs .* never be placed \(2 can\)"):
        check_capacity(config, placement, size=3)
    nodes((0, 1))
    with pytest.raises(ResourceError, match=r"the cluster has no CPUs"):
        plan_resources(config_of(size=1))
