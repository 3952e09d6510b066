"""Runs on Ray that lose, add and remove networks, and their replays in one process, which have the same bits."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from inarch.actors import PopulationRun
from inarch.actors.messages import NetworkStatus
from inarch.experiments.replaying import PreparedReplay, prepare_replay
from inarch.population import (
    CheckpointConfig,
    DataConfig,
    ExchangeConfig,
    GraftConfig,
    ModelConfig,
    PapaConfig,
    PopulationConfig,
    TextConfig,
    TopologyConfig,
)
from inarch.population.training.replay.record import Life
from inarch.population.training.replay.verifier import Replay
from tests.conftest import small_config
from tests.integration.runs import intervals, own_network, paced, until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.usefixtures("cluster")]


def assert_equal(run: PopulationRun, **options: Any) -> tuple[PreparedReplay, Replay]:
    """Replay a run, and check that its last weights and everything between have the same bits."""
    prepared = prepare_replay(run.path, **options)
    assert prepared.warnings == ()
    replay = prepared.run()
    assert replay.difference is None
    newest = {(network, items[-1]) for network, items in prepared.record.checkpoints.items() if items}
    assert newest and newest <= set(replay.checkpoints)
    assert replay.num_grafts > 0
    return prepared, replay


def starts(prepared: PreparedReplay) -> dict[Life, str]:
    """Return what each process began with."""
    return {life: birth.start.began for life, birth in prepared.record.births.items()}


def network_of(run: PopulationRun, network_id: int) -> NetworkStatus:
    return next(network for network in run.status().networks if network.network_id == network_id)


def send(run: PopulationRun, network_id: int, number: signal.Signals) -> None:
    """Send a signal to the process of a network."""
    process = network_of(run, network_id).process
    assert process is not None
    os.kill(process, number)


def kill(run: PopulationRun, network_id: int) -> None:
    """Kill the process of a network, and wait until the next one trains."""
    before = network_of(run, network_id).incarnation
    send(run, network_id, signal.SIGKILL)
    until(lambda: (now := network_of(run, network_id)).incarnation > before and now.state == "training")


def stall(run: PopulationRun, network_id: int, *, other: int, num_intervals: int) -> None:
    """Stop the process of a network until another network has trained some intervals."""
    send(run, network_id, signal.SIGSTOP)
    try:
        reached = network_of(run, other).interval
        until(lambda: network_of(run, other).interval >= reached + num_intervals)
    finally:
        send(run, network_id, signal.SIGCONT)


def wait_for(run: PopulationRun, interval: int) -> None:
    """Wait until all networks that train have reached an interval."""
    until(lambda: min(intervals(run.status()).values(), default=0) >= interval)


def test_replay_of_a_run_with_kills_and_a_stall(begin) -> None:
    settings = paced(100, 0.08, population=PopulationConfig(size=3, cpus=1), checkpoint=CheckpointConfig(every=4))
    run = begin("killed-replay", **settings)
    wait_for(run, 6)
    kill(run, 0)
    stall(run, 1, other=2, num_intervals=5)
    kill(run, 2)
    kill(run, 0)
    wait_for(run, 12)
    run.stop(seconds=60)
    prepared, _ = assert_equal(run)
    assert starts(prepared).items() >= {Life(0, 2): "resumed", Life(2, 2): "resumed", Life(0, 3): "resumed"}.items()
    _assert_takes_lost_intervals(prepared)


def _assert_takes_lost_intervals(prepared: PreparedReplay) -> None:
    """Check that networks took snapshots of intervals that no checkpoint followed, in a process that died."""
    record = prepared.record
    resumed = {
        Life(life.network_id, birth.start.checkpoint.incarnation): birth.start.interval
        for life, birth in record.births.items()
        if birth.start.began == "resumed"
    }
    taken = [
        scion.version
        for exchanges in record.exchanges.values()
        for exchange in exchanges.values()
        for scion in exchange.scions
    ]
    assert any(version.interval > resumed.get(version.life, version.interval) for version in taken)


def test_replay_of_a_run_that_grew_and_shrank(begin) -> None:
    run = begin("grown-replay", **paced(200, 0.1, population=PopulationConfig(size=2, max_size=4, cpus=1)))
    wait_for(run, 3)
    run.scale(4)
    until(lambda: (s := run.status()) and sum(n.state == "training" for n in s.networks) == 4)
    wait_for(run, 6)
    run.scale(2)
    until(lambda: sum(n.state == "retired" for n in run.status().networks) == 2)
    run.stop(seconds=60)
    prepared, _ = assert_equal(run)
    assert starts(prepared) == {Life(0, 1): "initial", Life(1, 1): "initial"} | {
        Life(2, 1): "cloned",
        Life(3, 1): "cloned",
    }


def test_replay_with_several_donors_and_rounding(begin) -> None:
    run = begin(
        "donors-replay",
        exchange=ExchangeConfig(num_donors=2, precision="int8"),
        graft=GraftConfig(multi_donor="mean"),
        topology=TopologyConfig(name="complete"),
        model=own_network,
        **paced(40, 0.05, population=PopulationConfig(size=3, cpus=1)),
    )
    wait_for(run, 5)
    kill(run, 1)
    run.wait(seconds=120)
    prepared, _ = assert_equal(run, model=own_network)
    exchanges = [item for items in prepared.record.exchanges.values() for item in items.values()]
    assert max(len(exchange.scions) for exchange in exchanges) == 2


def test_replay_of_papa_after_stop_resume_and_more_epochs(begin) -> None:
    run = begin(
        "papa-replay",
        exchange=ExchangeConfig(rule="papa"),
        papa=PapaConfig(pull=0.1),
        **paced(40, 0.05, population=PopulationConfig(size=3, cpus=1)),
    )
    wait_for(run, 4)
    run.stop(seconds=60)
    for epochs in (None, 46):  # to the end of the schedule, then with a longer one
        resumed = PopulationRun.resume(run.path, epochs=epochs)
        resumed.wait(seconds=120)
        resumed.close()
    prepared, replay = assert_equal(run)
    assert sum(start == "resumed" for start in starts(prepared).values()) == 6
    assert replay.num_intervals == 3 * 46


def test_replay_of_a_lockstep_run_with_a_kill_and_a_resume(begin) -> None:
    run = begin("lockstep-replay", mode="lockstep", **paced(16, 0.05, population=PopulationConfig(size=2, cpus=1)))
    wait_for(run, 3)
    kill(run, 0)
    wait_for(run, 6)
    run.stop(seconds=60)
    resumed = PopulationRun.resume(run.path)
    resumed.wait(seconds=120)
    resumed.close()
    _, replay = assert_equal(run)
    assert replay.num_intervals >= 2 * 16


def test_replay_of_a_language_run_with_a_kill(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("networks graft the weights of their neighbors. " * 60)
    config = small_config(
        name="text-replay",
        storage=str(tmp_path),
        task="language",
        data=DataConfig(),
        model=ModelConfig(),
        text=TextConfig(source=str(tmp_path / "text.txt"), context=16, width=16, layers=1, heads=2),
        **paced(12, 0.05, population=PopulationConfig(size=2)),
    )
    run = PopulationRun.start(config)
    wait_for(run, 2)
    kill(run, 0)
    run.wait(seconds=120)
    assert_equal(run)
    run.close()
