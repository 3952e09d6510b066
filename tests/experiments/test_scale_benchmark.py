"""The simulation of large populations: against dense matrices, and against exchanges one after another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from inarch.experiments.benchmarks.scale.command import TOPOLOGIES, scale, scale_row
from inarch.experiments.benchmarks.scale.gossip_matrix import donor_table, second_eigenvalue
from inarch.experiments.benchmarks.scale.simulation import Quadratic, Setting, interval_ends, simulate, turns
from inarch.population.config import StalenessConfig, TopologyConfig
from inarch.population.errors import ConfigError
from inarch.population.membership.staleness import discounted_alpha, staleness_limit
from inarch.population.membership.topology import Places, donors, neighbors


@pytest.mark.parametrize("name", [*TOPOLOGIES, "star"])
@pytest.mark.parametrize("size", [5, 12, 16])
def test_second_eigenvalue_is_that_of_the_dense_matrix(name: str, size: int) -> None:
    topology = TopologyConfig(name=name)
    rounds = size - 1 if name in ("complete", "star") else 60  # whole turns of the topology
    table, product = donor_table(topology, size, rounds), np.eye(size)
    for row in table:
        product = (0.6 * np.eye(size) + 0.4 * np.eye(size)[row]) @ product
    dense = np.sort(np.abs(np.linalg.eigvals(product)))[-2] ** (1 / rounds)
    factor, slowest = second_eigenvalue(table, 0.6)
    assert factor == pytest.approx(dense, rel=2e-3)
    assert np.abs(slowest.mean(0)).max() < 1e-9


def test_donors_are_those_of_the_product() -> None:
    topology = TopologyConfig(name="random_regular", degree=3)
    table = donor_table(topology, 20, 4, seed=5)
    members = range(20)
    assert table[2, 7] == neighbors(topology, members, 7, round=2, seed=5)[0]
    assert all(table[3, network] == neighbors(topology, members, network, round=3, seed=5)[0] for network in members)


def test_lockstep_is_the_product_of_gossip_matrices() -> None:
    topology = TopologyConfig(name="exponential")
    table = donor_table(topology, 9, 20)
    weights = np.random.default_rng(1).standard_normal((9, 3))
    trace = simulate(Setting(topology=topology, size=9, intervals=20, is_lockstep=True), table, weights)
    for number, row in enumerate(table):
        weights = 0.5 * weights + 0.5 * weights[row]
        distance = np.sqrt(((weights - weights.mean(0)) ** 2).sum(1).mean())
        assert trace.distance[number] == pytest.approx(distance, rel=1e-9)
    assert trace.staleness.max() == 0 and trace.exchanges == len(trace.staleness) == 180


def one_after_another(setting: Setting, weights: np.ndarray, ends: np.ndarray) -> float:
    """The final consensus distance of gossip, computed one exchange at a time."""
    weights, trained = weights.copy(), np.zeros(setting.size)
    published: dict[int, tuple[np.ndarray, float]] = {}
    places, limit = Places(range(setting.size)), staleness_limit(StalenessConfig(), num_intervals=setting.intervals)
    for flat in np.argsort(ends, axis=None, kind="stable"):
        interval, network = divmod(int(flat), setting.size)
        trained[network] += 1
        own, progress = weights[network].copy(), trained[network]
        for donor in donors(setting.topology, places, network, round=interval):
            if donor in published and min(progress, interval + 1) - published[donor][1] <= limit + 1e-6:
                scion, scion_progress = published[donor]
                alpha = discounted_alpha(setting.alpha, max(0.0, progress - scion_progress), StalenessConfig())
                weights[network] = alpha * own + (1 - alpha) * scion
                trained[network] = alpha * progress + (1 - alpha) * scion_progress
                break
        published[network] = own, progress
    return float(np.sqrt(((weights - weights.mean(0)) ** 2).sum(1).mean()))


@pytest.mark.parametrize("name", ["ring", "one_peer", "complete"])
def test_turns_give_the_same_as_one_exchange_at_a_time(name: str) -> None:
    setting = Setting(topology=TopologyConfig(name=name), size=12, intervals=24, spread=0.4, seed=3)
    table, weights = donor_table(setting.topology, 12, 24), np.random.default_rng(2).standard_normal((12, 4))
    trace = simulate(setting, table, weights)
    ends = interval_ends(setting, np.random.default_rng([3, 1]))
    assert trace.distance[-1] == pytest.approx(one_after_another(setting, weights, ends), rel=1e-9)
    assert trace.staleness.max() > 1


def test_no_network_ends_two_intervals_in_a_turn() -> None:
    ends = np.cumsum(np.random.default_rng(0).uniform(0.5, 1.5, (30, 25)), axis=0)
    seen, latest = 0, 0.0
    for networks, rounds, until in turns(ends):
        assert len(set(networks)) == len(networks) and until > latest
        times = ends[rounds - 1, networks]
        assert (np.diff(times) >= 0).all() and times[0] > latest and times[-1] == until
        seen, latest = seen + len(networks), until
    assert seen == 30 * 25


def test_networks_alone_keep_their_distance_and_loss() -> None:
    quadratic = Quadratic(dimensions=8)
    weights = np.sqrt(quadratic.variances_alone) * np.random.default_rng(0).standard_normal((4000, 8))
    for seed in range(3):
        weights = quadratic.trained(weights, np.random.default_rng(10 + seed))
    assert float(quadratic.loss(weights).mean()) == pytest.approx(quadratic.loss_alone, rel=0.05)
    distance = float(np.sqrt(((weights - weights.mean(0)) ** 2).sum(1).mean()))
    assert distance == pytest.approx(quadratic.distance_alone, rel=0.05)


def test_exchange_brings_networks_together_and_down() -> None:
    ring = scale_row(Setting(topology=TopologyConfig(name="ring"), size=60, intervals=40))
    exponential = scale_row(Setting(topology=TopologyConfig(name="exponential"), size=60, intervals=40))
    assert exponential.mixing_predicted < 10 < ring.mixing_predicted
    assert ring.mixing_measured == pytest.approx(ring.mixing_predicted, rel=1e-3)
    assert exponential.distance < ring.distance < 0.9
    assert ring.mean_network_loss < 0.1 < ring.loss < 0.8
    assert 0 < ring.staleness_mean < 3 and 0 <= ring.refused < 0.05


def test_command_prints_a_table_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scale(sizes=(10,), topologies=("ring", "complete"), intervals=20, out=str(tmp_path / "scale.json")) == 0
    shown = capsys.readouterr().out
    assert "ring" in shown and "second eigenvalue" in shown
    rows = json.loads((tmp_path / "scale.json").read_text())["rows"]
    assert [(row["topology"], row["size"]) for row in rows] == [("ring", 10), ("complete", 10)]
    with pytest.raises(ConfigError, match="intervals must be at least 20"):
        scale(intervals=3)
