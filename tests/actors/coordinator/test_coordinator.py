"""The lifecycle of networks, without training one: which members a run waits for, and which processes it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from inarch.actors.coordinator import run_completion
from inarch.actors.coordinator.actor import RunCoordinator
from inarch.actors.coordinator.resumption.recovery import restore_run
from inarch.actors.coordinator.run_metadata import write_config
from inarch.actors.network.async_checkpointer import AsyncCheckpointer
from inarch.actors.network.log_file import LogFile
from inarch.population.errors import RunError
from inarch.population.membership.members import MemberState
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_folder import read_members, record_names
from inarch.population.tasks.run_spec import RunSpec
from inarch.population.training.run_preparation import describe_run
from tests.conftest import small_config, tiny_task
from tests.population.persistence.test_checkpoint import checkpoint


def coordinator(tmp_path: Path, *states: MemberState, mode: str = "async", started: bool = True) -> RunCoordinator:
    """A coordinator whose members have these states, without processes."""
    result = RunCoordinator(RunSpec(name="run", folder=str(tmp_path / "run"), config=small_config(mode=mode)))
    population = result.context.population
    for state in states:
        member = population.members.add(is_initial=True)
        if started:
            population.mark_started(member.id, interval=0)
        population.members.set_state(member.id, state)
    return result


def plain(coordinator: RunCoordinator) -> Any:
    """The coordinator, whose methods have the types of remote calls, as it is called in one process."""
    return coordinator


def states(coordinator: RunCoordinator) -> list[str]:
    return [member.state.value for member in coordinator.context.population.members]


async def settle(coordinator: RunCoordinator) -> None:
    """Let the coordinator react until the run is over."""
    await asyncio.wait_for(coordinator.react(), 10.0)


def test_run_finishes_when_last_active_network_is_removed(tmp_path: Path) -> None:
    async def scenario() -> RunCoordinator:
        run = coordinator(tmp_path, MemberState.DONE, MemberState.STARTING, MemberState.STOPPED)
        run.context.state.begin()
        await plain(run).scale(1)
        await settle(run)
        return run

    run = asyncio.run(scenario())
    assert run.context.state.phase == "finished"
    assert states(run) == ["done", "retired", "stopped"]


def test_members_leave_and_stop_at_once_before_the_run_has_begun(tmp_path: Path) -> None:
    async def scenario() -> list[list[str]]:
        run = coordinator(tmp_path, *[MemberState.STARTING] * 3, started=False)
        await plain(run).scale(2)
        after_scale = states(run)
        await plain(run).stop()
        await settle(run)
        return [after_scale, states(run), [run.context.state.phase]]

    expected = [["starting", "starting", "retired"], ["stopped", "stopped", "retired"], ["finished"]]
    assert asyncio.run(scenario()) == expected


def test_stop_of_a_resumed_run_waits_for_its_members(tmp_path: Path) -> None:
    """Before they are restored there is nobody to stop, and they would start afterwards."""

    async def scenario() -> RunCoordinator:
        spec = RunSpec(name="run", folder=str(tmp_path / "run"), config=small_config(), is_resumed=True)
        run = RunCoordinator(spec)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(plain(run).stop(), 0.2)
        return run

    assert asyncio.run(scenario()).context.state.phase == "starting"


def test_error_of_a_background_task_fails_the_run(tmp_path: Path) -> None:
    async def broken() -> None:
        raise ValueError("no disk")

    async def scenario() -> RunCoordinator:
        run = coordinator(tmp_path, MemberState.TRAINING)
        run.context.state.begin()
        run.context.background.spawn(broken())
        await settle(run)
        return run

    run = asyncio.run(scenario())
    assert run.context.state.phase == "failed"
    assert "the coordinator failed: ValueError('no disk')" in run.context.state.message


def test_checkpointer_of_a_replaced_network_is_fenced(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    store = CheckpointStore(storage)
    checkpointer = AsyncCheckpointer(store, LogFile(storage, "network-0"), deadline_seconds=20.0)
    checkpointer.commit(checkpoint(1))
    checkpointer.wait()
    assert not checkpointer.is_fenced and len(store.list(0)) == 1
    store.acquire_fence(0, 3)
    checkpointer.commit(checkpoint(2))
    checkpointer.wait()
    assert checkpointer.is_fenced and len(store.list(0)) == 1
    checkpointer.commit(checkpoint(3))
    checkpointer.wait()
    assert len(store.list(0)) == 1


def test_failure_is_announced_after_it_is_recorded(tmp_path: Path) -> None:
    """A driver that learns of it ends the coordinator at once."""

    async def scenario() -> tuple[str, str | None, bool, float]:
        run = coordinator(tmp_path, MemberState.TRAINING)
        state = run.context.state
        state.begin()
        write_config(run.context.storage, run.context.spec, describe_run(tiny_task(run.context.config)))
        waiting = asyncio.create_task(plain(run).wait(10.0))
        reacting = asyncio.create_task(run.react())
        state.fail("no disk")
        run.context.background.has_changed.set()
        with pytest.raises(RunError, match="no disk"):
            await waiting
        record = read_members(run.context.storage) or {}
        seconds = state.seconds
        await reacting
        assert state.seconds == seconds
        return state.phase, record["state"], (tmp_path / "run" / "report.html").exists(), seconds

    phase, recorded, has_report, _ = asyncio.run(scenario())
    assert (phase, recorded, has_report) == ("failed", "failed", True)


def test_record_is_written_again_only_if_it_changes(tmp_path: Path) -> None:
    """The coordinator of an open run asks for it each second."""

    async def scenario() -> list[bool]:
        run = coordinator(tmp_path, MemberState.TRAINING, MemberState.TRAINING)
        run.context.state.begin()
        storage, recorder, changes = run.context.storage, run.context.recorder, []
        for change in (lambda: None, lambda: None, lambda: run.lifecycle.mark_failed(1, "no memory")):
            before = record_names(storage)
            change()
            await recorder.write()
            changes.append(record_names(storage) != before)
        return changes

    assert asyncio.run(scenario()) == [True, False, True]


def test_restarted_coordinator_knows_why_networks_failed(tmp_path: Path) -> None:
    async def scenario() -> dict[int, str]:
        run = coordinator(tmp_path, MemberState.TRAINING, MemberState.TRAINING)
        run.context.state.begin()
        write_config(run.context.storage, run.context.spec, describe_run(tiny_task(run.context.config)))
        run.lifecycle.mark_failed(1, "no memory")
        await run.context.recorder.write()
        restarted = coordinator(tmp_path)
        assert await restore_run(restarted.context)
        assert restarted.context.state.wanted == 1
        return restarted.context.state.reasons

    assert asyncio.run(scenario()) == {1: "no memory"}


def test_evaluation_that_raises_fails_the_run_with_its_error(tmp_path: Path, monkeypatch) -> None:
    def broken(gpus: float, *, seconds: float) -> None:
        raise KeyError("x")

    monkeypatch.setattr(run_completion, "reserved_gpu", broken)

    async def scenario() -> RunCoordinator:
        run = coordinator(tmp_path, MemberState.DONE)
        run.context.state.begin()
        run.context.background.has_changed.set()
        await settle(run)
        return run

    run = asyncio.run(scenario())
    assert run.context.state.phase == "failed"
    assert run.context.state.message == "the evaluation failed: KeyError: 'x'"
