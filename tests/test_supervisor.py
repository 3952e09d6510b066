"""The lives of networks, as far as they can be seen without training one: who is waited for, who comes back."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import ray

from inarch.actors.coordinator.actor import Coordinator
from inarch.actors.messages import NAMESPACE, StartPlan, network_name
from inarch.actors.network.async_checkpointer import AsyncCheckpointer
from inarch.actors.network.log_file import LogFile
from inarch.population.membership.members import MemberState
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_spec import RunSpec
from tests.conftest import small_config
from tests.test_checkpoint import checkpoint


def coordinator(tmp_path: Path, *states: MemberState, mode: str = "async", lived: bool = True) -> Coordinator:
    """That of a run whose members stand so, without processes."""
    found = Coordinator(RunSpec(name="run", folder=str(tmp_path / "run"), config=small_config(mode=mode)))
    for state in states:
        member = found._members.add(is_initial=True)
        if lived:
            found._members.mark_started(member.id, interval=0)
        found._members.set_state(member.id, state)
    return found


def states(found: Coordinator) -> list[str]:
    return [member.state.value for member in found._members]


async def settled(found: Coordinator) -> None:
    await found._background.wait_until(lambda: found._state.is_over, seconds=5.0)


def test_a_run_ends_when_the_last_that_was_waited_for_is_sent_away(tmp_path: Path) -> None:
    async def live() -> Coordinator:
        found = coordinator(tmp_path, MemberState.DONE, MemberState.STARTING, MemberState.STOPPED)
        found._state.begin()
        await found.scale(1)
        await settled(found)
        return found

    found = asyncio.run(live())
    assert found._state.state == "finished"
    assert states(found) == ["done", "retired", "stopped"]


def test_members_of_a_run_that_never_had_a_network_are_waited_for(tmp_path: Path) -> None:
    """As when the coordinator dies while the founders are built, and those die with it."""
    found = coordinator(tmp_path, MemberState.STARTING, MemberState.STARTING, lived=False)
    found._state.begin()
    found._lifecycle.retire_never_placed()
    assert states(found) == ["starting", "starting"]


def test_members_that_never_found_a_place_are_dropped_once_the_others_are_done(tmp_path: Path) -> None:
    found = coordinator(tmp_path, MemberState.DONE)
    found._members.add(is_initial=False)
    found._state.begin()
    found._lifecycle.retire_never_placed()
    assert states(found) == ["done", "retired"]


def test_before_the_run_has_begun_members_leave_and_stop_at_once(tmp_path: Path) -> None:
    async def live() -> list[list[str]]:
        found = coordinator(tmp_path, *[MemberState.STARTING] * 3, lived=False)
        await found.scale(2)
        told = [states(found)]
        await found.stop()
        await settled(found)
        return [*told, states(found), [found._state.state]]

    assert asyncio.run(live()) == [["starting", "starting", "retired"], ["stopped", "stopped", "retired"], ["finished"]]


def test_founders_that_are_sent_away_while_they_are_placed_are_not_waited_for(tmp_path: Path) -> None:
    async def live() -> tuple[Coordinator, set[int]]:
        found = coordinator(tmp_path, *[MemberState.STARTING] * 2)
        placing = {0: asyncio.create_task(asyncio.sleep(0.2)), 1: asyncio.create_task(asyncio.sleep(60.0))}
        found._lifecycle.request_leave(1)
        await asyncio.wait_for(found._lifecycle._wait_for_enough(placing), 5.0)
        return found, set(placing)

    found, placed = asyncio.run(live())
    assert placed == {0} and found._state.state == "starting"


@pytest.mark.ray
@pytest.mark.parametrize("mode", ["async", "lockstep"])
def test_processes_of_those_who_had_left_do_not_outlive_a_coordinator(cluster: str, tmp_path: Path, mode: str) -> None:
    """In lockstep one that leaves is kept until the next barrier, and who keeps it may die before."""
    name = network_name("run", 0, 1)
    ray.remote(num_cpus=0)(Left).options(name=name, namespace=NAMESPACE, lifetime="detached").remote()
    found = coordinator(tmp_path, MemberState.RETIRED, MemberState.TRAINING, mode=mode)
    found._lifecycle.terminate_orphans()
    found._group.end_leavers()
    deadline = time.monotonic() + 20.0
    with pytest.raises(ValueError, match=name):
        while time.monotonic() < deadline:
            ray.get_actor(name, namespace=NAMESPACE)
            time.sleep(0.1)


class Left:
    """Stands for a network's process."""


def test_where_a_resumed_run_begins_together_holds_until_a_network_is_past_it(tmp_path: Path) -> None:
    found = coordinator(tmp_path, MemberState.STARTING, mode="lockstep")
    found._lifecycle._resume_points = {0: StartPlan("resumed", 10)}
    assert found._lifecycle._start_plan(0, "resumed") == ("resumed", 10)
    assert found._lifecycle._start_plan(0, "joined") == ("joined", None)
    assert found._lifecycle._start_plan(1, "resumed") == ("resumed", None)
    found._monitor.record_placement(0, interval=11, process=1, node="a")
    assert found._lifecycle._start_plan(0, "resumed") == ("resumed", None)


def test_a_network_that_was_replaced_knows_it_as_soon_as_it_commits(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    store = CheckpointStore(storage)
    committer = AsyncCheckpointer(store, LogFile(storage, "network-0"), deadline_seconds=20.0)
    committer.commit(checkpoint(1))
    committer.wait()
    assert not committer.is_fenced and len(store.list(0)) == 1
    store.acquire_fence(0, 3)
    committer.commit(checkpoint(2))
    committer.wait()
    assert committer.is_fenced and len(store.list(0)) == 1
    committer.commit(checkpoint(3))
    assert committer._under_way is None
