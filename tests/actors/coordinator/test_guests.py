"""Guests of a run: how they join, fall silent, return and leave, without Ray."""

from __future__ import annotations

import asyncio
import dataclasses
import time
import types
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from inarch.actors.coordinator import guests
from inarch.actors.coordinator.guests import Guests, open_info
from inarch.actors.coordinator.run_context import RunContext
from inarch.actors.messages import Command, Enrollment, ExitReason, GuestApplication
from inarch.population.config import OpenConfig, TimeoutsConfig
from inarch.population.errors import ConfigError, RunError, StructureError
from inarch.population.membership.members import MemberState
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.persistence.history import read_table
from inarch.population.tasks.run_folder import read_config
from inarch.population.tasks.run_spec import RunSpec
from tests.actors.network.test_exchange_client import report as report_of
from tests.conftest import small_config
from tests.fakes.origins import origin

APPLICATION = GuestApplication(
    name="a", structure="structure", snapshot_bytes=64, parameters=16, every=5, process=1, node="node"
)


class Run:
    """A run whose guests a test drives."""

    def __init__(self, tmp_path: Path, settings: OpenConfig | None = None, *, mode: Any = "async") -> None:
        config = settings.run_config("run") if settings else small_config(mode=mode)
        self.context = RunContext(RunSpec(name="run", folder=str(tmp_path / "run"), config=config, open=settings))
        self.state, self.population = self.context.state, self.context.population
        self.state.info = open_info(settings or OpenConfig())
        self.state.begin()
        self.guests = Guests(self.context)

    def enroll(self, **changes: Any) -> Enrollment:
        return self.guests.enroll(dataclasses.replace(APPLICATION, **changes))

    def state_of(self, network_id: int) -> MemberState:
        return self.population.members[network_id].state

    def events(self) -> list[tuple[str, int | None]]:
        return [(event.kind, event.network_id) for event in self.context.monitor.after(0)]

    async def written(self) -> None:
        """Wait until the background tasks have written their files."""
        async with asyncio.timeout(10.0):
            while not self.context.storage.exists("config.json"):
                await asyncio.sleep(0.01)


def play(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def snapshot(network_id: int, *, incarnation: int = 1, step: int = 1) -> PublishedSnapshot[Any]:
    info = origin(step, network_id=network_id, incarnation=incarnation)
    return PublishedSnapshot(origin=info, information=(), payload=[])


def test_first_loop_decides_what_an_open_run_does_not_know(tmp_path: Path) -> None:
    async def scenario() -> None:
        run = Run(tmp_path, OpenConfig(metric="loss", lower_is_better=True, num_intervals=40))
        place = run.enroll()
        assert (place.network_id, place.incarnation, place.every, place.num_intervals) == (0, 1, 5, 40)
        assert [(metric.name, metric.higher_is_better) for metric in place.metrics] == [("loss", False)]
        assert run.enroll(name="b", every=None).every == 5
        assert run.events() == [("join", 0), ("join", 1)]
        await run.written()
        info = read_config(run.context.storage)["info"]
        assert (info["structure"], info["interval_steps"], info["parameters"]) == ("structure", 5, 16)

    play(scenario)


def test_loop_that_differs_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        run = Run(tmp_path, OpenConfig())
        run.enroll()
        with pytest.raises(ConfigError, match="every=6: run run exchanges every 5 optimizer steps"):
            run.enroll(name="b", every=6)
        with pytest.raises(StructureError, match=r"this model has 17 parameters .* of run run have 16"):
            run.enroll(name="b", structure="other", parameters=17)
        assert len(run.population.members) == 1
        run.state.phase = "finishing"
        with pytest.raises(RunError, match="run run is finishing"):
            run.enroll(name="b")
        with pytest.raises(RunError, match="mode=lockstep"):
            Run(tmp_path, mode="lockstep").enroll()

    play(scenario)


def test_same_name_gets_the_same_id_and_a_new_incarnation(tmp_path: Path) -> None:
    async def scenario() -> None:
        run = Run(tmp_path, OpenConfig())
        run.enroll()
        run.population.publish(snapshot(0), now=0.0)
        run.guests.sign_off(0, 1, ExitReason.STOPPED)
        assert run.state_of(0) is MemberState.STOPPED
        place = run.enroll()
        assert (place.network_id, place.incarnation) == (0, 2)
        assert run.state_of(0) is MemberState.TRAINING
        assert not run.population.is_current(0, 1)
        assert run.population.index.newest(0) is None
        run.guests.sign_off(0, 1, ExitReason.DONE)  # of the process that was replaced
        assert run.state_of(0) is MemberState.TRAINING

    play(scenario)


def test_silent_guest_is_stalled_then_gone_and_may_return(tmp_path: Path) -> None:
    async def scenario() -> None:
        run = Run(tmp_path, OpenConfig())
        run.enroll()
        run.population.publish(snapshot(0), now=0.0)
        run.population.check_heartbeats({0: 1.5}, lease_seconds=1.0)
        assert run.state_of(0) is MemberState.STALLED
        silent = run.population.check_heartbeats({0: 3.5}, lease_seconds=1.0)
        assert (silent.gone, silent.hanging) == ((0,), ())
        run.guests.record_gone(silent.gone)
        assert run.state_of(0) is MemberState.GONE
        assert run.population.index.newest(0) is None and run.population.members.topology.ids == []
        assert run.events()[-1] == ("loss", 0)
        run.population.record_contact(0, has_trained=False)
        assert run.state_of(0) is MemberState.TRAINING

    play(scenario)


def test_guests_do_not_count_as_networks_of_the_run(tmp_path: Path) -> None:
    async def scenario() -> None:
        run = Run(tmp_path)
        network = run.population.members.add(is_initial=True)
        run.enroll()
        assert run.population.members.active() == (network.id,)
        assert run.population.members.num_to_add(2, max_size=None) == 1
        assert run.population.members.select_for_removal(2) == (network.id,)
        assert run.population.members.donors.ids == [1]

    play(scenario)


def test_only_the_snapshot_that_was_lost_is_withdrawn(tmp_path: Path) -> None:
    async def scenario() -> None:
        run = Run(tmp_path, OpenConfig())
        run.enroll()
        old, new = snapshot(0, step=1), snapshot(0, step=2)
        run.population.publish(new, now=0.0)
        run.guests.withdraw(old.origin)
        assert run.population.index.newest(0) == new
        run.guests.withdraw(new.origin)
        assert run.population.index.newest(0) is None
        run.guests.withdraw(snapshot(7).origin)

    play(scenario)


def test_stop_notifies_every_guest_before_the_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        run = Run(tmp_path, OpenConfig(timeouts=TimeoutsConfig(lease_seconds=60.0)))
        run.enroll()
        run.enroll(name="b")
        assert run.guests.command(0) is Command.CONTINUE
        run.state.phase, run.state.is_stopped = "stopping", True
        assert not run.guests.has_notified_all()
        assert [run.guests.command(number) for number in (0, 1)] == [Command.STOP] * 2
        assert run.guests.has_notified_all() and not run.guests.is_over()
        for number in (0, 1):
            run.guests.sign_off(number, 1, ExitReason.STOPPED)
        assert run.guests.is_over()

    play(scenario)


def test_scale_down_asks_the_youngest_to_leave(tmp_path: Path) -> None:
    async def scenario() -> None:
        run = Run(tmp_path, OpenConfig())
        for name in ("a", "b", "c"):
            run.enroll(name=name)
        run.guests.scale(1)
        commands = [run.guests.command(number) for number in range(3)]
        assert commands == [Command.CONTINUE, Command.LEAVE, Command.LEAVE]
        with pytest.raises(ConfigError, match="has 1 members and starts none itself"):
            run.guests.scale(2)
        with pytest.raises(ConfigError, match="at least 1"):
            run.guests.scale(0)

    play(scenario)


@pytest.mark.parametrize("has_come", [False, True])
def test_open_run_is_over_when_nobody_is_there(tmp_path: Path, monkeypatch, has_come: bool) -> None:
    now = [1000.0]
    monkeypatch.setattr(
        guests, "time", types.SimpleNamespace(monotonic=lambda: now[0], time=time.time, time_ns=time.time_ns)
    )

    async def scenario() -> None:
        run = Run(tmp_path, OpenConfig(idle_seconds=60.0))
        now[0] += 59.0
        assert not run.guests.is_over()
        if has_come:
            run.enroll()
            now[0] += 600.0
            assert not run.guests.is_over()
            run.guests.sign_off(0, 1, ExitReason.DONE)
            now[0] += 59.0
            assert not run.guests.is_over()
        now[0] += 2.0
        assert run.guests.is_over()

    play(scenario)


def test_rows_of_guests_are_written_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        run = Run(tmp_path, OpenConfig())
        run.enroll()
        before = report_of(snapshot(0).origin)
        run.guests.record(before)
        row = {"rootstock": 0, "scion": 1, "interval": 1, "incarnation": 1, "layer": "conv", "alpha": 0.5}
        run.guests.record(dataclasses.replace(before, outcome=ExchangeOutcome.GRAFTED, graft_rows=(row,)))
        for _ in range(2):
            await run.guests.write_rows()
        assert read_table(run.context.storage, "metrics")["interval"].to_pylist() == [1]
        assert read_table(run.context.storage, "grafts")["alpha"].to_pylist() == [0.5]

    play(scenario)
