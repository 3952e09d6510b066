"""Processes of a run that are stopped for good, or killed again and again."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from inarch.actors import PopulationRun
from inarch.actors.messages import NetworkStatus
from inarch.experiments.benchmarks.chaos.injectors import freeze, kill
from inarch.population import PopulationConfig, TimeoutsConfig
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage
from tests.integration.runs import intervals, paced, rows_of, until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("cluster")]


def network(run: PopulationRun, network_id: int) -> NetworkStatus:
    return next(status for status in run.status().networks if status.network_id == network_id)


def processes(run: PopulationRun) -> dict[int, int]:
    """Return the process id of each network that has a process."""
    return {status.network_id: status.process for status in run.status().networks if status.process is not None}


def advance(run: PopulationRun, count: int) -> None:
    """Wait until every network has ended some more intervals."""
    before = intervals(run.status())
    until(
        lambda: (
            (now := intervals(run.status())).keys() == before.keys()
            and all(now[network_id] >= before[network_id] + count for network_id in before)
        )
    )


def incarnations(run: PopulationRun) -> dict[int, int]:
    """Return the number of the newest process of each network that has rows."""
    newest = read_table(Storage(run.path), "metrics").group_by("network").aggregate([("incarnation", "max")])
    return dict(zip(newest["network"].to_pylist(), newest["incarnation_max"].to_pylist(), strict=True))


def test_network_stopped_for_good_is_replaced(begin) -> None:
    lease = 4.0
    run = begin("stands", **paced(150, 0.1, timeouts=TimeoutsConfig(lease_seconds=lease)))
    until(lambda: min(intervals(run.status()).values(), default=0) >= 2)
    before, victim = intervals(run.status()), processes(run)[0]
    assert freeze(victim) == ""
    until(lambda: network(run, 0).state == "stalled", seconds=3 * lease)
    until(lambda: not psutil.pid_exists(victim), seconds=5 * lease)
    until(lambda: (n := network(run, 0)).incarnation == 2 and n.state == "training")
    assert network(run, 1).interval >= before[1] + 3
    advance(run, 2)
    run.stop(seconds=60)
    rows = rows_of(run)
    assert rows == {network_id: list(range(1, len(rows[network_id]) + 1)) for network_id in (0, 1)}
    assert incarnations(run) == {0: 2, 1: 1}


def test_coordinator_killed_again_and_again_loses_nothing(begin) -> None:
    victims = (0, 1, 0)
    run = begin("again", **paced(90, 0.1, population=PopulationConfig(size=3)))
    until(lambda: min(intervals(run.status()).values(), default=0) >= 1)
    coordinators = [run.status().coordinator_process]
    for victim in victims:
        before = processes(run)
        assert kill(coordinators[-1]) == ""
        assert kill(before[victim]) == ""
        coordinators.append(until(lambda: (p := run.status().coordinator_process) not in (0, *coordinators) and p))
        until(
            lambda: (
                len(networks := run.status().networks) == 3
                and all(n.state == "training" and n.process for n in networks)
            )
        )
        advance(run, 2)
        replaced = {network_id for network_id, process in processes(run).items() if process != before[network_id]}
        assert replaced == {victim}
    assert len(set(coordinators)) == 4
    assert run.wait(seconds=120).is_complete
    assert rows_of(run) == {network_id: list(range(1, 91)) for network_id in range(3)}
    assert incarnations(run) == {network_id: 1 + victims.count(network_id) for network_id in range(3)}
    logs = [path.read_text() for path in Path(run.path, "logs").glob("network-*.log")]
    assert len(logs) == 3 and not any("orphaned" in log for log in logs)
