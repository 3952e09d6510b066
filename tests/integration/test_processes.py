"""Processes that a restarted coordinator finds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from inarch.actors.messages import NAMESPACE, network_name
from inarch.population.membership.members import MemberState
from tests.actors.coordinator.test_coordinator import coordinator

pytestmark = [pytest.mark.ray]


@pytest.fixture
def left_process(cluster: str) -> Iterator[str]:
    """The name of a process that stands for network 0 of the run."""
    name = network_name("run", 0, 1)
    ray.remote(num_cpus=0)(Left).options(name=name, namespace=NAMESPACE, lifetime="detached").remote()
    yield name


@pytest.mark.parametrize("mode", ["async", "lockstep"])
def test_processes_of_retired_members_end_after_a_recovery(left_process: str, tmp_path: Path, mode: str) -> None:
    """In lockstep the process of a leaving network lives until the next barrier, and the coordinator may die before."""
    run = coordinator(tmp_path, MemberState.RETIRED, MemberState.TRAINING, mode=mode)
    run.lifecycle.terminate_orphans()
    run.context.group.end_leavers()
    deadline = time.monotonic() + 20.0
    with pytest.raises(ValueError, match=left_process):
        while time.monotonic() < deadline:
            ray.get_actor(left_process, namespace=NAMESPACE)
            time.sleep(0.1)


class Left:
    """Stands for a network's process."""
