"""Measure how soon a coordinator that was killed answers again, on a quiet machine and on a loaded one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import RayError

from inarch.actors.messages import NAMESPACE, coordinator_name
from inarch.experiments.benchmarks.harness import Must, Row
from inarch.population.config import TimeoutsConfig

LEASE = Must(rule="at most", limit=TimeoutsConfig().lease_seconds)
"""Networks that hear nothing for a lease commit a checkpoint, and end."""

BUSY_PER_CORE = 4
"""Processes for each core that compute without end on the loaded machine. They are as nice as processes of Ray, which
gives its own the niceness 15: the networks of other runs would be the load."""

ANSWER_SECONDS = 180.0
"""Longest wait for the new coordinator."""

POLL_SECONDS = 0.05


def recovery_rows(run: str, size: int, repeats: int) -> list[Row]:
    """Return the rows of the table: seconds from a kill to the first answer of the next coordinator.

    Args:
        run: Name of the run. Its coordinator is killed.
        size: Number of its members, for the rows' names.
        repeats: Kills for each row, at least 1.
    """
    what = f"{size} networks: a killed coordinator answers again"
    quiet = tuple(_restart_seconds(run) for _ in range(repeats))
    with _busy_machine():
        loaded = tuple(_restart_seconds(run) for _ in range(repeats))
    return [
        Row(what=what, unit="s", values=quiet, must=LEASE),
        Row(what=f"{what}, {BUSY_PER_CORE} busy processes a core", unit="s", values=loaded, must=LEASE),
    ]


def _restart_seconds(run: str) -> float:
    """Kill the coordinator of a run, and return the seconds until the next one answers."""
    actor = ray.get_actor(coordinator_name(run), namespace=NAMESPACE)
    killed = _process(actor)
    if killed is None:
        raise TimeoutError(f"run {run}: the coordinator does not answer")
    os.kill(killed, signal.SIGKILL)
    began = time.monotonic()
    while time.monotonic() - began < ANSWER_SECONDS:
        if _process(actor) not in (None, killed):
            return time.monotonic() - began
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"run {run}: its coordinator was not back after {ANSWER_SECONDS:g} s")


def _process(coordinator: Any) -> int | None:
    """Return the process id of a coordinator. None while it does not answer."""
    with contextlib.suppress(RayError):
        status: Any = ray.get(coordinator.status.remote(), timeout=ANSWER_SECONDS)
        return int(status.coordinator_process)
    return None


@contextlib.contextmanager
def _busy_machine() -> Iterator[None]:
    """Let processes compute without end within the block."""
    words = [sys.executable, "-c", "import os\nos.nice(15)\nwhile True: pass"]
    processes = [subprocess.Popen(words) for _ in range(BUSY_PER_CORE * (os.cpu_count() or 1))]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
