"""Coordinators whose process is killed while they start a run."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from inarch.actors import PopulationRun
from inarch.actors.driver.launching import START_ATTEMPTS
from inarch.population.errors import ClusterError
from tests.integration.runs import paced, rows_of, until

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def starting_coordinators() -> list[psutil.Process]:
    """Return the processes of coordinators that answer the call `start`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[:1] == ["ray::Coordinator.start"]:
                found.append(process)
    return found


@contextlib.contextmanager
def killed_while_starting(count: int) -> Iterator[list[int]]:
    """Kill the first coordinators that start a run. The list receives their process ids."""
    victims: list[int] = []
    is_over = threading.Event()

    def kill() -> None:
        while len(victims) < count and not is_over.is_set():
            for process in starting_coordinators():
                if process.pid not in victims:
                    process.kill()
                    victims.append(process.pid)
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield victims
    finally:
        is_over.set()
        thread.join()


def test_run_starts_although_its_coordinator_is_killed(begin) -> None:
    with killed_while_starting(1) as victims:
        run = begin("again", **paced(4, 0.02))
    assert len(victims) == 1 and run.status().coordinator_process not in victims
    assert run.wait(seconds=120).is_complete
    assert rows_of(run) == {0: [1, 2, 3, 4], 1: [1, 2, 3, 4]}


@pytest.mark.slow
def test_run_resumes_although_its_coordinator_is_killed(begin, tmp_path: Path) -> None:
    run = begin("resumed", **paced(60, 0.05))
    until(lambda: rows_of(run) and min(map(len, rows_of(run).values())) >= 2)
    run.stop(seconds=60)
    run.close()
    before = rows_of(run)
    with killed_while_starting(1) as victims:
        resumed = PopulationRun.resume(run.path)
    assert len(victims) == 1
    until(lambda: all(len(rows) > len(before[network_id]) for network_id, rows in rows_of(resumed).items()))
    resumed.stop(seconds=60)
    resumed.close()
    assert all(rows == list(range(1, len(rows) + 1)) for rows in rows_of(resumed).values())


@pytest.mark.slow
def test_run_whose_coordinators_all_die_is_an_error(begin) -> None:
    with killed_while_starting(START_ATTEMPTS) as victims, pytest.raises(ClusterError, match="died while it started"):
        begin("lost", **paced(4, 0.02))
    assert len(victims) == START_ATTEMPTS
    until(lambda: not starting_coordinators())
    assert begin("after", **paced(1, 0.0)).wait(seconds=120).is_complete
