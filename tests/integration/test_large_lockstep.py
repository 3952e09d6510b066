"""A barrier at which more calls wait than Ray allows an actor by default, on a real coordinator."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import pytest
import ray

from inarch.actors.coordinator.actor import RunCoordinator
from inarch.actors.driver.launching import COORDINATOR_CALLS
from inarch.population import PopulationConfig
from inarch.population.config import TimeoutsConfig
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.tasks.run_spec import RunSpec
from tests.conftest import small_config
from tests.fakes.origins import origin

pytestmark = [pytest.mark.ray, pytest.mark.slow]

MEMBERS, LATE = 1100, 100
"""Members of the barrier, and those of them that come late."""

LATE_SECONDS = 8.0
"""Seconds for which the others wait."""


class CoordinatorWithoutNetworks(RunCoordinator):
    """A coordinator whose members train, and have no processes: their calls come from the test."""

    async def __init__(self, spec: RunSpec) -> None:
        super().__init__(spec)
        self.context.population.num_intervals = 3
        for _ in range(spec.config.population.size):
            network_id = self.context.population.members.add(is_initial=True).id
            self.context.population.mark_started(network_id, interval=0)
            self.context.population.begin_training(network_id)
        self.context.state.begin()


def test_late_members_of_a_large_barrier_release_it(cluster: str, tmp_path: Path) -> None:
    config = small_config(
        mode="lockstep",
        population=PopulationConfig(size=MEMBERS),
        timeouts=TimeoutsConfig(barrier_seconds=300.0),
    )
    spec = RunSpec(name="large", folder=str(tmp_path / "large"), config=config)
    remote: Any = ray.remote  # its types do not know max_concurrency
    actor: Any = remote(num_cpus=0, max_concurrency=COORDINATOR_CALLS)(CoordinatorWithoutNetworks).remote(spec)
    payload = [ray.put(b"weights")]
    try:
        for interval in (1, 2):
            waiting = [publish_and_ask(actor, number, interval, payload) for number in range(MEMBERS - LATE)]
            ended, _ = ray.wait(waiting, timeout=LATE_SECONDS)
            assert ended == []
            asked = time.monotonic()
            status: Any = ray.get(actor.status.remote(), timeout=20.0)
            assert len(status.networks) == MEMBERS and time.monotonic() - asked < 10.0
            waiting += [publish_and_ask(actor, number, interval, payload) for number in range(MEMBERS - LATE, MEMBERS)]
            answers = cast("list[Any]", ray.get(waiting, timeout=90.0))
            donors = [answer[0].origin for answer in answers]
            assert {donor.network_id for donor in donors} == set(range(MEMBERS))
            assert {donor.interval for donor in donors} == {interval}
    finally:
        ray.kill(actor)


def publish_and_ask(actor: Any, network_id: int, interval: int, payload: list[Any]) -> Any:
    """Make the calls of a network that has completed an interval, and return the pending request for scions."""
    own = origin(interval, network_id=network_id)
    snapshot = PublishedSnapshot(origin=own, information=(1.0,), payload=payload)
    actor.post.remote(network_id, 1, [], snapshot)
    return actor.ask.remote(own)
