"""A population that follows its cluster, with fake processes and fake nodes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import pytest
from ray.exceptions import RpcError

from inarch.actors.coordinator.elasticity.cluster_watch import ClusterWatch
from inarch.actors.messages import Command, ExitReason, StartPlan
from inarch.population.config import PopulationConfig, TimeoutsConfig
from inarch.population.membership.elasticity import ClusterView, NodeCapacity, SettledRoom
from inarch.population.membership.members import MemberState
from tests.actors.coordinator.test_lifecycle import Run, play

ScaleTo = Literal["size", "resources", "autoscaler"]


class Nodes:
    """A cluster of nodes with one CPU for each network, some of which are in use."""

    def __init__(self) -> None:
        self.cpus, self.used, self.reads = 2, 0, 0
        self.error: Exception | None = None
        self.is_draining = False

    def read(self) -> ClusterView:
        self.reads += 1
        if self.error is not None:
            raise self.error
        total = {"CPU": float(self.cpus)}
        free = {"CPU": float(self.cpus - self.used)}
        node = NodeCapacity(node_id="node", total=total, free=free, is_draining=self.is_draining)
        return ClusterView(nodes=(node,))


def elastic(
    tmp_path: Path, *, scale_to: ScaleTo = "resources", max_size: int | None = None
) -> tuple[Run, Nodes, ClusterWatch]:
    """A run of two networks whose coordinator sees room at once."""
    run, nodes = Run(tmp_path, population=PopulationConfig(size=2, scale_to=scale_to, max_size=max_size)), Nodes()
    run.state.limit = max_size
    watch = ClusterWatch(run.context, run.lifecycle, read=nodes.read, settled=SettledRoom(seconds=0.0))
    return run, nodes, watch


def test_population_grows_to_its_limit_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        run, nodes, watch = elastic(tmp_path, max_size=4)
        await run.train(2)
        nodes.used = 2
        await watch.check()
        assert len(run.population.members) == 2, "there is no room"
        nodes.cpus = 7
        run.group.slow = {2, 3}
        await watch.check()
        await watch.check()
        assert [run.state_of(number) for number in (2, 3)] == [MemberState.STARTING] * 2
        assert len(run.population.members) == 4, "networks that wait are not started twice"
        assert run.state.wanted == 4

    play(scenario)


def test_lost_networks_have_the_room_first(tmp_path: Path) -> None:
    async def scenario() -> None:
        run, nodes, watch = elastic(tmp_path, max_size=4)
        await run.train(2)
        run.population.lose(1)
        nodes.cpus, nodes.used = 2, 1
        await watch.check()
        assert len(run.population.members) == 2

    play(scenario)


@pytest.mark.parametrize("error", [RpcError("the head is gone"), ImportError("Ray has moved the view")])
def test_unreadable_cluster_is_reported_once(tmp_path: Path, error: Exception) -> None:
    async def scenario() -> None:
        run, nodes, watch = elastic(tmp_path)
        await run.train(2)
        nodes.cpus, nodes.error = 8, error
        await watch.check()
        await watch.check()
        assert len(run.population.members) == 2
        log = tmp_path / "run" / "logs" / "coordinator.log"
        await run.until(lambda: repr(error) in log.read_text())  # a thread writes the log
        assert log.read_text().count(repr(error)) == 1
        nodes.error = None
        await watch.check()
        assert len(run.population.members) == 10

    play(scenario)


def test_no_network_joins_at_the_end_of_the_schedule(tmp_path: Path) -> None:
    async def scenario() -> None:
        run, nodes, watch = elastic(tmp_path)
        await run.train(2)
        run.population.record_interval(0, 3)  # of 4
        nodes.cpus = 8
        await watch.check()
        assert len(run.population.members) == 2

    play(scenario)


def test_nodes_are_read_once_in_a_while(tmp_path: Path) -> None:
    async def scenario() -> None:
        run, nodes, watch = elastic(tmp_path, scale_to="size")
        await run.train(2)
        nodes.cpus = 8
        watch.check_soon()
        watch.check_soon()
        await run.until(lambda: nodes.reads)
        await asyncio.sleep(0.05)
        assert nodes.reads == 1
        assert len(run.population.members) == 2, "only an elastic population grows"

    play(scenario)


def test_networks_of_a_draining_node_move_without_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        run, nodes, watch = elastic(tmp_path, scale_to="size")
        await run.train(2)
        await watch.check()
        assert run.group.commands == []
        nodes.is_draining = True
        await watch.check()
        assert run.group.commands == [(0, Command.MOVE), (1, Command.MOVE)]
        run.group.finish(0, ExitReason.MOVED)
        await run.until(lambda: run.group.created[-1] == (0, 2, StartPlan("resumed")))
        member = run.population.members[0]
        assert (member.incarnation, member.restarts) == (2, 0)
        assert run.group.ended == [0]
        assert "loss" not in run.events() and "failure" not in run.events()

    play(scenario)


def test_network_that_moves_while_the_run_stops_is_stopped(tmp_path: Path) -> None:
    async def scenario() -> None:
        run, _, _ = elastic(tmp_path)
        await run.train(2)
        run.state.phase = "stopping"
        run.group.finish(0, ExitReason.MOVED)
        await run.until(lambda: run.state_of(0) is MemberState.STOPPED)
        assert len(run.group.created) == 2

    play(scenario)


def test_networks_without_room_are_retired_at_the_end(tmp_path: Path) -> None:
    async def scenario(scale_to: ScaleTo, *, expected: MemberState) -> None:
        config = PopulationConfig(size=2, scale_to=scale_to)
        run = Run(tmp_path / scale_to, population=config, timeouts=TimeoutsConfig(start_seconds=0.01))
        await run.train(2)
        run.population.members.set_state(0, MemberState.DONE)
        run.population.lose(1)
        run.population.members.restart(1)
        run.lifecycle.reclaim_capacity()
        await asyncio.sleep(0.02)
        run.lifecycle.reclaim_capacity()
        assert run.state_of(1) is expected

    play(lambda: scenario("resources", expected=MemberState.RETIRED))
    play(lambda: scenario("size", expected=MemberState.FAILED))
