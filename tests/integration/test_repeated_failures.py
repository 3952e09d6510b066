"""Processes of a run that are stopped for good."""

from __future__ import annotations

import psutil
import pytest

from inarch.actors import PopulationRun
from inarch.actors.messages import NetworkStatus
from inarch.experiments.benchmarks.chaos.injectors import freeze
from inarch.population import TimeoutsConfig
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
    until(lambda: all(now >= before.get(n, 0) + count for n, now in intervals(run.status()).items()))


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
