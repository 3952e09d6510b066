"""Networks that take turns on too few places, with fake processes on a cluster of places."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from inarch.actors.coordinator.elasticity.cluster_watch import ClusterWatch
from inarch.actors.coordinator.elasticity.turns import Turns
from inarch.actors.messages import Command, ExitReason, StartPlan
from inarch.actors.network.standing import NetworkDescription
from inarch.actors.resources import NetworkResources
from inarch.population.config import PopulationConfig
from inarch.population.membership.elasticity import ClusterView
from inarch.population.membership.members import MemberRecord, MemberState
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.tasks.run_spec import RunSpec
from tests.actors.coordinator.test_lifecycle import INFO, Run, play
from tests.fakes.network_group import FakeNetworkGroup
from tests.fakes.origins import origin


class PlacesGroup(FakeNetworkGroup):
    """A group whose processes start in the order of their creation, as places become free."""

    def __init__(self, run: RunSpec, *, places: int) -> None:
        super().__init__(run)
        self.places = places
        self.order: list[int] = []
        """Ids of the living networks, in the order of their creation. The first ones have the places."""
        self.progress: dict[int, int] = {}
        """Intervals that a network has completed, by id."""

    def __contains__(self, network_id: int) -> bool:
        return network_id in self.order

    async def create(self, member: MemberRecord, plan: StartPlan, data: object, *, resources: NetworkResources):
        self.order.append(member.id)
        while member.id not in self.order[: self.places]:
            await asyncio.sleep(0.001)
        description = await super().create(member, plan, data, resources=resources)
        return NetworkDescription(description.structure, self.progress.get(member.id, 0), process=1, node="node")

    def end(self, network_id: int) -> None:
        super().end(network_id)
        if network_id in self.order:
            self.order.remove(network_id)

    def view(self) -> ClusterView:
        """Return the cluster: a full node, and one pending request for each process without a place."""
        num_pending = max(0, len(self.order) - self.places)
        return ClusterView(pending=(({"CPU": 1.0}, num_pending),) if num_pending else ())


class SlicedRun(Run):
    """A run whose networks take turns. A tick of its clock lets each network that trains complete an interval."""

    def __init__(self, tmp_path: Path, *, size: int, places: int, slice_intervals: int = 1) -> None:
        population = PopulationConfig(size=size, time_slicing=True, slice_intervals=slice_intervals)
        super().__init__(tmp_path, population=population)
        self.places = self.context.group = self.group = PlacesGroup(self.context.spec, places=places)
        self.lifecycle = type(self.lifecycle)(self.context)
        turns = Turns(self.context, self.lifecycle, lack_seconds=0.0)
        self.watch = ClusterWatch(self.context, self.lifecycle, read=self.places.view, turns=turns)
        self.asked: set[int] = set()

    def in_state(self, state: MemberState) -> list[int]:
        return [member.id for member in self.population.members if member.state is state]

    async def begin(self) -> None:
        self.add(self.context.config.population.size)
        await self.lifecycle.start_all()
        await self.settle()

    async def settle(self) -> None:
        """Let the event loop run until every place is used, as far as networks want one."""

        def is_settled() -> bool:
            held = [n for n in self.places.order[: self.places.places] if self.state_of(n) is not MemberState.DONE]
            is_full = len(self.places.order) >= self.places.places or not self.in_state(MemberState.STARTING)
            return is_full and all(self.group.is_training(n) for n in held if n not in self.group.slow)

        async with asyncio.timeout(10.0):
            while not is_settled():
                await self.context.background.notify()  # as the coordinator does after each change
                await asyncio.sleep(0.001)

    async def tick(self) -> None:
        """Look at the cluster, and then let each network that trains complete an interval."""
        await self.watch.check()
        self.asked |= {network_id for network_id, command in self.group.commands if command is Command.PAUSE}
        self.group.commands.clear()
        for member in [member for member in self.population.members if member.state is MemberState.TRAINING]:
            network_id = member.id
            self.places.progress[network_id] = interval = self.places.progress.get(network_id, 0) + 1
            self.population.record_interval(network_id, interval)
            if interval == INFO.num_intervals:
                self.group.finish(network_id, ExitReason.DONE)
            elif network_id in self.asked:
                self.group.finish(network_id, ExitReason.PAUSED)
            else:
                continue
            self.asked.discard(network_id)
            await self.until(lambda before=member: self.population.members[before.id] != before)
        await self.settle()


@pytest.mark.parametrize(("size", "places", "slice_intervals"), [(4, 2, 1), (5, 2, 2), (3, 1, 1)])
def test_networks_take_turns_to_the_end(tmp_path: Path, size: int, places: int, slice_intervals: int) -> None:
    async def scenario() -> None:
        run = SlicedRun(tmp_path, size=size, places=places, slice_intervals=slice_intervals)
        await run.begin()
        assert len(run.in_state(MemberState.TRAINING)) <= places
        for _ in range(2 * size * INFO.num_intervals):
            await run.tick()
            progress = [run.places.progress.get(member.id, 0) for member in run.population.members]
            assert max(progress) - min(progress) <= slice_intervals + 1
        assert run.in_state(MemberState.DONE) == list(range(size))
        members = list(run.population.members)
        assert sum(member.incarnation - 1 for member in members) == run.events().count("pause") > 0
        assert not {"loss", "restart", "failure"} & {*run.events()} and not any(member.restarts for member in members)

    play(scenario)


def test_networks_with_room_never_pause(tmp_path: Path) -> None:
    async def scenario() -> None:
        run = SlicedRun(tmp_path, size=3, places=3)
        await run.begin()
        for _ in range(INFO.num_intervals):
            await run.tick()
        assert run.in_state(MemberState.DONE) == [0, 1, 2] and "pause" not in run.events()

    play(scenario)


def test_finished_networks_give_up_their_places_first(tmp_path: Path) -> None:
    async def scenario() -> None:
        run = SlicedRun(tmp_path, size=6, places=4)
        await run.begin()
        for network_id in (0, 1, 2):
            run.group.finish(network_id, ExitReason.DONE)
        await run.until(lambda: len(run.in_state(MemberState.DONE)) == 3)
        await run.watch.check()
        assert run.group.ended == [0, 1], "as many as wait, and network 2 stays a donor"
        assert run.group.commands == [], "network 3 need not pause"

    play(scenario)


def test_paused_network_stays_a_donor_until_it_fails(tmp_path: Path) -> None:
    async def scenario() -> None:
        run = SlicedRun(tmp_path, size=2, places=1)
        await run.begin()
        (paused,) = run.in_state(MemberState.TRAINING)
        snapshot = PublishedSnapshot(origin=origin(1, network_id=paused), information=(), payload=[])
        run.population.publish(snapshot, now=0.0)
        await run.tick()
        (training,) = run.in_state(MemberState.TRAINING)
        assert training != paused
        own = origin(1, network_id=training)
        assert run.group.handed_over == [paused] and run.population.select_donors(own) == (snapshot,)
        run.lifecycle.mark_failed(paused, "lost")
        assert run.population.select_donors(own) is ExchangeOutcome.NO_NEIGHBOR

    play(scenario)


def test_queue_does_not_wait_for_a_network_that_is_being_built(tmp_path: Path) -> None:
    async def scenario() -> None:
        run = SlicedRun(tmp_path, size=3, places=2)
        await run.begin()
        await run.until(lambda: len(run.in_state(MemberState.TRAINING)) == 2)
        run.group.slow = {2}  # it has not trained, and is built for long once it has a place
        await run.tick()
        queued = run.in_state(MemberState.STARTING)
        assert 2 in queued and len(queued) == 2
        run.places.places = 3
        await run.watch.check()
        await run.settle()
        assert run.in_state(MemberState.STARTING) == [2]

    play(scenario)


def test_run_that_stops_ends_networks_between_their_turns(tmp_path: Path) -> None:
    async def scenario() -> None:
        run = SlicedRun(tmp_path, size=2, places=1)
        await run.begin()
        await run.tick()
        (waiting,) = run.in_state(MemberState.STARTING)
        run.state.phase = "stopping"
        run.lifecycle.request_stop(waiting)
        (training,) = run.in_state(MemberState.TRAINING)
        run.group.finish(training, ExitReason.PAUSED)  # it was asked before
        await run.until(lambda: run.in_state(MemberState.STOPPED) == [0, 1])
        assert run.places.order == []

    play(scenario)
