"""The lifecycle of networks with fake processes: starts, failures, restarts, leaves and recoveries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from inarch.actors.coordinator.lifecycle import NetworkLifecycle
from inarch.actors.coordinator.run_context import RunContext
from inarch.actors.messages import Command, ExitReason, StartPlan
from inarch.actors.network.standing import NetworkDescription, NetworkStanding
from inarch.actors.resources import NetworkResources
from inarch.population.config import PopulationConfig, TimeoutsConfig
from inarch.population.errors import NotFiniteError, StorageError
from inarch.population.evaluation.metrics import Metric
from inarch.population.membership.members import MemberState
from inarch.population.tasks.run_folder import read_members
from inarch.population.tasks.run_spec import RunInfo, RunSpec
from tests.conftest import small_config
from tests.fakes.network_group import STRUCTURE, FakeNetworkGroup

INFO = RunInfo(
    metrics=(Metric(name="accuracy"),),
    train_examples=96,
    data_bytes=0,
    data_fingerprint="data",
    structure=STRUCTURE,
    snapshot_bytes=1,
    parameters=1,
    num_intervals=4,
    steps_per_epoch=3,
)


class Run:
    """A run with fake processes."""

    def __init__(self, tmp_path: Path, *, is_resumed: bool = False, **changes: Any) -> None:
        config = small_config(**changes)
        spec = RunSpec(name="run", folder=str(tmp_path / "run"), config=config, is_resumed=is_resumed)
        self.context = RunContext(spec)
        self.group = FakeNetworkGroup(spec)
        self.context.group = self.group
        self.state, self.population = self.context.state, self.context.population
        self.state.resources = NetworkResources(cpus=1.0, gpus=0.0, threads=1)
        self.state.info = INFO
        self.lifecycle = NetworkLifecycle(self.context)

    def add(self, count: int) -> None:
        for _ in range(count):
            self.population.members.add(is_initial=True)

    def state_of(self, network_id: int) -> MemberState:
        return self.population.members[network_id].state

    def events(self) -> list[str]:
        return [event.kind for event in self.context.monitor.after(0)]

    async def until(self, condition: Callable[[], object]) -> None:
        """Let the event loop run until a condition holds."""
        async with asyncio.timeout(10.0):
            while not condition():
                await asyncio.sleep(0.001)

    async def train(self, count: int) -> None:
        """Start so many networks and wait until they train."""
        self.add(count)
        await self.lifecycle.start_all()
        await self.until(lambda: all(self.group.is_training(number) for number in range(count)))


def play(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Run]:
    return lambda **options: Run(tmp_path, **options)


def lost() -> ActorDiedError:
    return ActorDiedError()


def test_last_record_has_the_last_phase(make) -> None:
    """Events of networks that end while the run finishes ask for further records."""

    async def scenario() -> None:
        run = make()
        await run.train(2)
        run.state.phase = "finishing"
        recorder = run.context.recorder
        recorder.save()
        await asyncio.gather(recorder.write(phase="finished"), recorder.write(), recorder.write())
        await recorder.write()
        record = read_members(run.context.storage)
        assert record is not None and record["state"] == "finished"

    play(scenario)


def test_start_all_trains_every_member(make) -> None:
    async def scenario() -> None:
        run = make()
        await run.train(2)
        assert run.state.phase == "training"
        assert [run.state_of(number) for number in (0, 1)] == [MemberState.TRAINING] * 2
        assert run.group.created == [(0, 1, StartPlan("initial")), (1, 1, StartPlan("initial"))]

    play(scenario)


def test_start_all_with_min_size_lets_the_rest_join_later(make) -> None:
    async def scenario() -> None:
        run = make(population=PopulationConfig(size=2, min_size=1))
        run.group.slow = {1}
        run.add(2)
        await run.lifecycle.start_all()
        await run.until(lambda: run.group.is_training(0) and len(run.group.created) == 3)
        assert run.group.created[2] == (1, 2, StartPlan("joined"))
        assert run.population.is_held(1) and run.population.members[1].restarts == 0

    play(scenario)


def test_resumed_networks_placed_later_keep_their_process(make, monkeypatch) -> None:
    """They have a checkpoint, so they do not join as others do, and a stop lets them write another."""

    async def plans() -> dict[int, StartPlan]:
        return {0: StartPlan("resumed"), 1: StartPlan("resumed")}

    async def scenario() -> None:
        run = make(is_resumed=True, population=PopulationConfig(size=2, min_size=1))
        run.add(2)
        run.group.slow = {1}
        monkeypatch.setattr(run.lifecycle, "read_plans", plans)
        await run.lifecycle.start_all()
        await run.until(lambda: run.group.is_training(0))
        assert run.group.created == [(0, 1, StartPlan("resumed")), (1, 1, StartPlan("resumed"))]
        assert run.group.ended == [] and not run.population.is_held(1)

    play(scenario)


class UnbuiltError(ActorDiedError):
    """The death of a process whose constructor raised."""

    @property
    def actor_init_failed(self) -> bool:
        return True


def test_moved_network_is_built_again_after_an_error(make, monkeypatch) -> None:
    """Its data may not be mounted yet on the new node, and it has trained before."""
    monkeypatch.setattr("inarch.actors.coordinator.lifecycle.RETRY_SECONDS", 0.0)
    errors = [UnbuiltError()]

    async def scenario() -> None:
        run = make()
        await run.train(2)
        run.group.on_create = lambda member: errors.pop() if errors else None
        run.group.finish(1, ExitReason.MOVED)
        await run.until(lambda: len(run.group.created) == 4 and run.group.is_training(1))
        assert not errors and run.population.members[1].restarts == 1 and run.state_of(1) is MemberState.TRAINING

    play(scenario)


def test_start_all_that_takes_too_long_fails_the_run(make, monkeypatch) -> None:
    async def scenario() -> None:
        run = make(timeouts=TimeoutsConfig(start_seconds=0.2))
        run.group.slow = {1}
        run.add(2)
        await run.lifecycle.start_all()
        assert run.state.is_failing
        assert "only 1 of 2 networks were placed within timeouts.start_seconds (0.2 s)" in run.state.message

    monkeypatch.setattr("inarch.actors.coordinator.lifecycle.ray.cluster_resources", lambda: {"CPU": 1.0})
    play(scenario)


def test_start_all_ignores_a_member_that_leaves_meanwhile(make) -> None:
    async def scenario() -> None:
        run = make()
        run.group.slow = {1}
        run.add(2)
        starting = asyncio.ensure_future(run.lifecycle.start_all())
        await run.until(lambda: len(run.group.created) == 2)
        run.lifecycle.request_leave(1)
        await starting
        assert run.state.phase == "training" and run.state_of(1) is MemberState.RETIRED

    play(scenario)


def test_start_error_fails_a_new_run(make) -> None:
    async def scenario() -> None:
        run = make()
        run.group.on_create = lambda member: StorageError("no disk") if member.id == 1 else None
        run.add(2)
        await run.lifecycle.start_all()
        assert run.state.is_failing and run.state.message == "network 1 could not start: no disk"

    play(scenario)


def test_network_of_another_structure_is_refused(make) -> None:
    async def scenario() -> None:
        run = make()
        await run.train(1)
        run.group.structure = "other"
        network_id = run.population.members.add(is_initial=False).id
        await run.lifecycle.start(network_id, "joined")
        assert run.state_of(network_id) is MemberState.FAILED
        assert "has another structure than its neighbors" in run.state.reasons[network_id]
        assert network_id in run.group.ended

    play(scenario)


def test_construction_is_retried_up_to_max_restarts(make) -> None:
    async def scenario() -> None:
        run = make(population=PopulationConfig(size=2, max_restarts=2))
        await run.train(1)
        run.group.on_create = lambda member: lost()
        network_id = run.population.members.add(is_initial=False).id
        await run.lifecycle.start(network_id, "joined")
        assert run.state_of(network_id) is MemberState.FAILED
        assert [number for number, _, _ in run.group.created].count(network_id) == 3

    play(scenario)


def test_lost_process_restarts_the_network_from_its_checkpoint(make) -> None:
    async def scenario() -> None:
        run = make()
        await run.train(2)
        run.group.fail(1, lost())
        await run.until(lambda: run.group.created[-1] == (1, 2, StartPlan("resumed")))
        await run.until(lambda: run.group.is_training(1))
        assert run.state_of(1) is MemberState.TRAINING and run.state_of(0) is MemberState.TRAINING
        assert run.events().count("loss") == 1 and run.events().count("restart") == 1

    play(scenario)


def test_restarts_without_progress_end_in_failure(make) -> None:
    async def scenario() -> None:
        run = make(population=PopulationConfig(size=2, max_restarts=2))
        await run.train(2)
        for incarnation in (2, 3):
            run.group.fail(1, lost())
            await run.until(lambda number=incarnation: run.population.members[1].incarnation == number)
            await run.until(lambda: run.group.is_training(1))
        run.group.fail(1, lost())
        await run.until(lambda: run.state_of(1) is MemberState.FAILED)
        assert run.state.reasons[1].startswith("restarted 2 times without progress:")
        assert run.state_of(0) is MemberState.TRAINING and run.state.phase == "training"

    play(scenario)


def test_failed_run_keeps_its_reason(make) -> None:
    """The end of a failed run cancels networks that are being created. They have not failed."""

    async def scenario() -> None:
        run = make()
        await run.train(1)

        def cancelled(_: Any) -> ActorDiedError:
            run.state.fail("the folder vanished")
            return lost()

        run.group.on_create = cancelled
        await run.lifecycle.start(run.population.members.add(is_initial=False).id, "joined")
        assert run.state_of(1) is MemberState.STARTING and "failure" not in run.events()
        run.state.note_failure("storage fails")
        assert run.state.message == "the folder vanished"

    play(scenario)


def test_diverged_network_fails_without_a_restart(make) -> None:
    async def scenario() -> None:
        run = make()
        await run.train(2)
        run.group.fail(0, NotFiniteError("network 0 diverged"))
        await run.until(lambda: run.state_of(0) is MemberState.FAILED)
        assert run.state.reasons == {0: "network 0 diverged"} and "loss" not in run.events()

    play(scenario)


@pytest.mark.parametrize("reason", [ExitReason.ORPHANED, ExitReason.FENCED])
def test_network_that_lost_contact_is_restarted(make, reason: ExitReason) -> None:
    async def scenario() -> None:
        run = make()
        await run.train(2)
        run.group.finish(1, reason)
        await run.until(lambda: run.population.members[1].incarnation == 2)

    play(scenario)


@pytest.mark.parametrize(
    ("reason", "state", "is_ended"),
    [
        (ExitReason.DONE, MemberState.DONE, False),
        (ExitReason.LEFT, MemberState.RETIRED, True),
        (ExitReason.STOPPED, MemberState.STOPPED, True),
    ],
)
def test_regular_end_sets_the_state(make, reason: ExitReason, state: MemberState, is_ended: bool) -> None:
    async def scenario() -> None:
        run = make()
        await run.train(2)
        run.group.finish(1, reason)
        await run.until(lambda: run.state_of(1) is state)
        assert (1 in run.group.ended) is is_ended, "a finished network stays a donor"
        assert run.context.background.has_changed.is_set()

    play(scenario)


def test_leaving_network_whose_process_dies_is_retired(make) -> None:
    async def scenario() -> None:
        run = make()
        await run.train(2)
        run.lifecycle.request_leave(1)
        assert run.group.commands == [(1, Command.LEAVE)] and run.state_of(1) is MemberState.LEAVING
        run.group.fail(1, lost())
        await run.until(lambda: run.state_of(1) is MemberState.RETIRED)
        assert run.population.members[1].incarnation == 1

    play(scenario)


def test_lockstep_resume_limits_checkpoints_until_passed(make) -> None:
    async def scenario() -> None:
        run = make(mode="lockstep")

        async def plans() -> dict[int, StartPlan]:
            return {0: StartPlan("resumed", 10), 1: StartPlan("resumed", 10)}

        run.lifecycle.read_plans = plans
        await run.train(2)
        run.group.fail(1, lost())
        await run.until(lambda: run.group.created[-1] == (1, 2, StartPlan("resumed", 10)))
        await run.until(lambda: run.group.is_training(1))
        run.population.record_interval(1, 11)
        run.group.fail(1, lost())
        await run.until(lambda: run.group.created[-1] == (1, 3, StartPlan("resumed", None)))

    play(scenario)


def standing(interval: int) -> NetworkStanding:
    return NetworkStanding(None, [], NetworkDescription(STRUCTURE, interval, process=1, node="node"))


def test_recovery_reattaches_living_and_restarts_dead_networks(make) -> None:
    async def scenario() -> None:
        run = make()
        run.add(3)
        for network_id in range(3):
            run.population.mark_started(network_id, interval=0)
            run.population.members.set_state(network_id, MemberState.TRAINING)
        run.state.begin()
        run.group.known_processes = {0: 2, 1: 1}
        run.group.standings = {0: standing(3), 1: TimeoutError()}
        known = list(run.population.members)
        for member in known:
            run.lifecycle.find(member)
        assert run.population.members[0].incarnation == 2, "a process that was started but not recorded"
        for member in known:
            await run.lifecycle.reattach(member)
        await run.until(lambda: run.group.is_training(0) and run.population.interval(0) == 3)
        await run.until(lambda: {number for number, _, _ in run.group.created} == {1, 2})

    play(scenario)


@pytest.mark.parametrize("is_built", [False, True])
def test_recovery_starts_waiting_networks_without_a_loss(make, is_built: bool) -> None:
    async def scenario() -> None:
        run = make()
        run.add(1)
        run.population.mark_started(0, interval=3)  # as recorded before it gave up its place
        run.state.begin()
        if is_built:  # its process is there, and is not ready to answer
            run.group.known_processes, run.group.standings = {0: 1}, {0: TimeoutError()}
            run.lifecycle.find(run.population.members[0])
        await run.lifecycle.reattach(run.population.members[0])
        assert run.group.ended == ([0] if is_built else [])
        await run.until(lambda: run.group.is_training(0))
        assert run.events() == ["join"] and run.population.members[0].restarts == 0

    play(scenario)


def test_silent_networks_are_stalled_and_then_ended(make, monkeypatch) -> None:
    async def scenario() -> None:
        run = make()
        await run.train(2)
        silent = {0: 0.0, 1: 40.0}
        monkeypatch.setattr(run.context.monitor, "silent_seconds", silent.__getitem__)
        run.lifecycle.check_heartbeats()
        assert run.state_of(1) is MemberState.STALLED and run.group.ended == []
        silent[1] = 100.0
        run.lifecycle.check_heartbeats()
        assert run.group.ended == [1], "the death of its process brings the restart"

    play(scenario)


def test_reclaim_capacity_ends_finished_then_fails_waiting(make, monkeypatch) -> None:
    async def scenario() -> None:
        run = make(timeouts=TimeoutsConfig(start_seconds=60.0))
        await run.train(1)
        run.group.finish(0, ExitReason.DONE)
        await run.until(lambda: run.state_of(0) is MemberState.DONE)
        waiting = run.population.members.add(is_initial=False).id
        now = [1000.0]
        monkeypatch.setattr("inarch.actors.coordinator.lifecycle.time.monotonic", lambda: now[0])
        run.lifecycle.reclaim_capacity()
        assert run.group.ended == []
        now[0] += 31.0
        run.lifecycle.reclaim_capacity()
        assert run.group.ended == [0] and run.state_of(waiting) is MemberState.STARTING
        now[0] += 30.0
        run.lifecycle.reclaim_capacity()
        assert run.state_of(waiting) is MemberState.FAILED

    play(scenario)


def test_damaged_checkpoint_is_an_event(make) -> None:
    async def scenario() -> None:
        run = make(is_resumed=True)
        run.group.damages = ("checkpoint networks/0/000002-001: model.safetensors is not what was written",)
        await run.train(1)
        (event,) = [event for event in run.context.monitor.after(0) if event.kind == "damage"]
        assert (event.network_id, event.detail["reason"]) == (0, run.group.damages[0])

    play(scenario)
