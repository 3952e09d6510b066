"""Training loops of the caller's own in populations on Ray."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from torch import nn

from inarch import join
from inarch.actors import PopulationRun
from inarch.actors.driver.coordinator_client import find_coordinator
from inarch.actors.messages import NAMESPACE, coordinator_name
from inarch.population.config import (
    ExchangeConfig,
    GraftConfig,
    OpenConfig,
    PopulationConfig,
    StalenessConfig,
    TimeoutsConfig,
    TopologyConfig,
)
from inarch.population.errors import ConfigError, RunError, RunExistsError, RunNotFoundError, StructureError
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.models import CifarResNet
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage
from tests.integration.runs import intervals, paced, rows_in, until

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

SHORT = TimeoutsConfig(lease_seconds=1.0)


def network(width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width * 36, 4))


class Loop:
    """A plain training loop with an optimizer of its own."""

    def __init__(self, model: nn.Module | None = None, *, optimizer: type[torch.optim.Optimizer] = torch.optim.SGD):
        self.model = model or network()
        self.optimizer = optimizer(self.model.parameters(), lr=0.01)  # pyright: ignore[reportCallIssue]

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            loss = self.model(torch.randn(4, 1, 8, 8)).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


def train_until(condition: Callable[[], Any], *loops: Loop, seconds: float = 30.0) -> None:
    """Let loops train side by side until a condition holds."""

    def trained() -> bool:
        for loop in loops:
            loop.step(2)
        time.sleep(0.02)
        return condition()

    until(trained, seconds=seconds)


def states(run: PopulationRun) -> list[str]:
    return [network.state for network in run.status().networks]


def test_two_loops_graft_from_each_other(open_run) -> None:
    run = open_run("pair", every=2)
    first, second = Loop(), Loop(optimizer=torch.optim.AdamW)
    with join("pair", first.model, optimizer=first.optimizer, name="sgd") as one:
        with join("pair", second.model, optimizer=second.optimizer, name="adamw") as two:
            assert (one.network_id, two.network_id, two.every) == (0, 1, 2)
            train_until(lambda: min(one.grafts, two.grafts) >= 3, first, second)
            two.tell(score=0.5, loss=1.5, examples=8)
            second.step(2)
        status = until(lambda: (s := run.status()) and s.networks[1].state == "retired" and s)
        assert [network.name for network in status.networks] == ["sgd", "adamw"]
        assert status.networks[1].validation_metrics == {"score": 0.5}
        assert status.networks[1].train_loss == 1.5
        first.step(2)
        assert one.exchange().outcome is not ExchangeOutcome.GRAFTED  # nobody is left
    run.stop(seconds=30)
    rows = rows_in(run.path)
    assert rows.keys() == {0, 1} and rows[1] == list(range(1, two.interval + 1))
    grafts = read_table(Storage(run.path), "grafts")
    assert set(grafts["rootstock"].to_pylist()) == {0, 1}
    assert len(grafts) == (one.grafts + two.grafts) * len(set(grafts["layer"].to_pylist()))


def test_other_structure_interval_or_config_is_an_error(open_run) -> None:
    open_run("strict", every=2)
    loop, wide = Loop(), network(width=16)
    with join("strict", loop.model, optimizer=loop.optimizer):
        began = time.monotonic()
        with pytest.raises(StructureError, match=r"this model has 2,500 parameters .* of run strict have 1,252"):
            join("strict", wide)
        with pytest.raises(ConfigError, match="every=3: run strict exchanges every 2 optimizer steps"):
            join("strict", loop.model, optimizer=loop.optimizer, every=3)
        with pytest.raises(ConfigError, match=r"graft\.a: this loop expects 0\.8, and run strict has 0\.4"):
            join("strict", loop.model, config=OpenConfig(graft=GraftConfig(a=0.8)))
        with pytest.raises(ConfigError, match="begin must be own or clone"):
            join("strict", loop.model, begin="copy")  # pyright: ignore[reportArgumentType]
        assert time.monotonic() - began < 5.0


def test_run_that_is_unknown_or_without_interval_is_an_error(open_run, tmp_path: Path) -> None:
    loop = Loop()
    with pytest.raises(RunNotFoundError, match="open one for training loops: inarch open nobody"):
        join("nobody", loop.model, storage=str(tmp_path))
    with pytest.raises(RunNotFoundError, match="there is no run at"):
        join(f"{tmp_path}/nobody", loop.model)
    run = open_run("unset")
    with pytest.raises(ConfigError, match="every: run unset does not know yet"):
        join("unset", loop.model, optimizer=loop.optimizer)
    with pytest.raises(RunExistsError, match="choose another name"):
        PopulationRun.open("unset", storage=str(tmp_path / "elsewhere"))
    run.stop(seconds=30)
    with pytest.raises(RunError, match="run unset is finished"):
        join("unset", loop.model, every=2)


@pytest.mark.slow
def test_loop_joins_a_live_run_as_a_clone(begin) -> None:
    model = CifarResNet(8, num_classes=4, in_channels=1)
    run = begin("host", **paced(400, 0.02, population=PopulationConfig(size=2)))
    until(lambda: min(intervals(run.status()).values(), default=0) >= 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with join("host", model, optimizer=optimizer, name="guest", begin="clone") as member:
        assert member.interval >= 2 and member.every == 3

        def both_have_grafted() -> bool:
            optimizer.step()
            time.sleep(0.02)
            return member.grafts >= 3 and any(network.scion == member.network_id for network in run.status().networks)

        until(both_have_grafted)
        run.scale(1)  # guests do not count
        until(lambda: sum(network.state == "training" for network in run.status().networks) == 2)
        assert not member.should_stop
        run.ask_to_stop()
        until(lambda: optimizer.step() or member.should_stop)
    until(lambda: run.status().state == "finished")
    assert states(run)[:2] == ["stopped", "retired"]


@pytest.mark.slow
def test_guest_does_not_hold_up_the_end_of_a_run(begin) -> None:
    model = CifarResNet(8, num_classes=4, in_channels=1)
    run = begin("short", **paced(20, 0.02, population=PopulationConfig(size=1)))
    until(lambda: min(intervals(run.status()).values(), default=0) >= 1)
    with join("short", model, every=3) as member:
        member.exchange()
        result = run.wait(seconds=60)
        assert result.is_complete and [network.network_id for network in result.networks] == [0]
        assert not member.should_stop
        assert member.exchange().outcome is not ExchangeOutcome.GRAFTED


@ray.remote(num_cpus=0)
class Process:
    """A training loop in a process of its own."""

    def join(self, run: str, name: str) -> tuple[int, int, int]:
        self.loop = Loop()
        self.member = join(run, self.loop.model, optimizer=self.loop.optimizer, name=name)
        return os.getpid(), self.member.network_id, self.member.incarnation

    def train(self, steps: int) -> int:
        self.loop.step(steps)
        return self.member.grafts

    def leave(self) -> None:
        self.member.leave()


@pytest.mark.slow
def test_killed_loop_returns_as_the_next_incarnation(open_run) -> None:
    run = open_run("killed", every=2, timeouts=SHORT, topology=TopologyConfig(name="complete"))
    loop = Loop()
    process: Any = Process.remote()
    with join("killed", loop.model, optimizer=loop.optimizer, name="survivor") as survivor:
        process_id, network_id, incarnation = ray.get(process.join.remote("killed", "victim"))
        assert (network_id, incarnation) == (1, 1)
        until(lambda: [ray.get(process.train.remote(2)), loop.step(2)] and survivor.grafts)
        os.kill(process_id, signal.SIGKILL)
        interval = survivor.interval
        until(lambda: states(run)[1] == "stalled", seconds=10)
        loop.step(6)
        assert survivor.interval == interval + 3
        until(lambda: states(run)[1] == "gone", seconds=10)
        loop.step(2)
        assert run.status().refusals.get("gone", 0) <= 2  # the first reader withdraws the snapshot
        process: Any = Process.remote()
        _, network_id, incarnation = ray.get(process.join.remote("killed", "victim"))
        assert (network_id, incarnation) == (1, 2)
        grafts = survivor.grafts
        until(lambda: [ray.get(process.train.remote(2)), loop.step(2)] and survivor.grafts > grafts)
        assert states(run) == ["training", "training"]
    ray.get(process.leave.remote())
    ray.kill(process)
    run.stop(seconds=30)
    kinds = [event.kind for event in run.events() if event.network_id == 1]
    assert (kinds.count("join"), kinds.count("loss")) == (2, 1)


def test_second_process_of_a_name_replaces_the_first(open_run) -> None:
    open_run("twice", every=2, timeouts=SHORT)
    loop = Loop()
    first = join("twice", loop.model, optimizer=loop.optimizer, name="same")
    second = join("twice", Loop().model, name="same")
    assert (second.network_id, second.incarnation) == (first.network_id, 2)
    until(lambda: first.should_stop, seconds=10)
    loop.step(2)
    first.leave()
    assert not second.should_stop
    second.leave()


@pytest.mark.slow
def test_open_run_is_scaled_down_and_reopened(open_run, tmp_path: Path) -> None:
    run = open_run("again", every=2, timeouts=SHORT)
    first, second = join("again", network(), name="a"), join("again", network(), name="b")
    with pytest.raises(ConfigError, match="has 2 members and starts none itself"):
        run.scale(3)
    run.scale(1)
    until(lambda: second.should_stop, seconds=10)
    assert not first.should_stop
    first.leave()
    second.leave("stopped")
    run.stop(seconds=30)
    assert states(run) == ["retired", "stopped"]
    run.close()
    with pytest.raises(ConfigError, match="data, model and schedule of their own; resume it without epochs"):
        PopulationRun.resume(run.path, epochs=9)
    again = PopulationRun.resume(run.path)
    with join("again", network(), name="b") as member:
        assert (member.network_id, member.incarnation, member.every) == (1, 2, 2)
    again.stop(seconds=30)
    again.close()


@pytest.mark.slow
def test_open_run_ends_when_it_has_no_members(open_run) -> None:
    run = open_run("empty", idle_seconds=2.0)
    with join("empty", network()) as member:
        member.exchange()
        time.sleep(3.0)
        assert run.status().state == "training"
    assert run.wait(seconds=20).table is None


@pytest.mark.slow
def test_restarted_coordinator_keeps_the_guests(open_run) -> None:
    run = open_run("revived", every=2, timeouts=TimeoutsConfig(lease_seconds=5.0))
    first, second = Loop(), Loop()
    with (
        join("revived", first.model, optimizer=first.optimizer, name="a") as one,
        join("revived", second.model, optimizer=second.optimizer, name="b") as two,
    ):
        train_until(lambda: one.grafts and two.grafts, first, second)
        os.kill(run.status().coordinator_process, signal.SIGKILL)
        until(lambda: states(run) == ["training", "training"], seconds=30)
        grafts = max(one.grafts, two.grafts)
        train_until(lambda: min(one.grafts, two.grafts) > grafts, first, second)
        assert [network.name for network in run.status().networks] == ["a", "b"]


def test_loop_packs_its_snapshots_as_the_run_does(open_run) -> None:
    """A configuration with another precision is no error, because what the loop itself trains stays float32."""
    run = open_run("packed", every=2, exchange=ExchangeConfig(precision="int8"))
    first, second = Loop(), Loop()
    with (
        join("packed", first.model, optimizer=first.optimizer, name="a", config=OpenConfig(every=2)) as one,
        join("packed", second.model, optimizer=second.optimizer, name="b") as two,
    ):
        train_until(lambda: min(one.grafts, two.grafts) >= 2, first, second)
        published: Any = ray.get(find_coordinator("packed").parent.remote(one.network_id, one.incarnation), timeout=10)
        stored: Any = ray.get(published.payload[0], timeout=10)
        whole = sum(tensor.numel() * tensor.element_size() for tensor in second.model.state_dict().values())
        assert stored.nbytes == published.nbytes < 0.6 * whole
    assert all(parameter.dtype == torch.float32 for parameter in first.model.parameters())
    assert run.status().refusals.get("structure", 0) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"exchange": ExchangeConfig(rule="papa")},
        {"exchange": ExchangeConfig(rule="wash")},
        {"exchange": ExchangeConfig(rule="pbt")},
        {"exchange": ExchangeConfig(rule="dml")},
        {"exchange": ExchangeConfig(precision="int8")},
        {"graft": GraftConfig(momentum="reset")},
        {"graft": GraftConfig(momentum="blend")},
        {"graft": GraftConfig(level="filter")},
    ],
    ids=lambda settings: next(iter(settings.values())).__class__.__name__,
)
def test_every_rule_exchanges_in_loops(open_run, settings: dict[str, Any], request) -> None:
    name = f"rule-{request.node.callspec.indices['settings']}"
    open_run(name, every=2, staleness=StalenessConfig(max_intervals=100.0), **settings)
    first, second = Loop(optimizer=torch.optim.Adam), Loop(optimizer=torch.optim.Adam)
    options: dict[str, Any] = {"input_shape": (1, 8, 8)}
    with (
        join(name, first.model, optimizer=first.optimizer, name="a", **options) as one,
        join(name, second.model, optimizer=second.optimizer, name="b", **options) as two,
    ):
        one.tell(score=0.9)
        two.tell(score=0.1)
        train_until(lambda: two.tell(score=0.1) or two.grafts, first, second)
        assert all(torch.isfinite(parameter).all() for parameter in second.model.parameters())
        if settings.get("exchange") == ExchangeConfig(rule="dml"):
            assert two.peers
        if settings.get("exchange") == ExchangeConfig(rule="pbt"):
            assert second.optimizer.param_groups[0]["lr"] == pytest.approx(0.01, rel=0.21)
            assert second.optimizer.param_groups[0]["lr"] != 0.01


@ray.remote(num_cpus=0)
class Rank:
    """One of two processes that train a model together with DistributedDataParallel."""

    def join(self, run: str, rank: int, port: int) -> int:
        torch.manual_seed(0)
        torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
        model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(288, 4)))
        self.loop = Loop(model)
        self.member = join(run, torch.compile(model), optimizer=self.loop.optimizer, name="ranks")  # pyright: ignore[reportArgumentType]
        return self.member.network_id

    def train(self, steps: int) -> tuple[int, list[float], dict[str, Any]]:
        self.loop.step(steps)
        weights = [float(parameter.detach().double().sum()) for parameter in self.loop.model.parameters()]
        return self.member.grafts, weights, self.member.state_dict()

    def should_stop(self) -> bool:
        return self.member.should_stop

    def leave(self) -> None:
        self.member.leave()

    def refuse(self, run: str) -> str:
        with pytest.raises(ConfigError) as raised:
            join(run, self.loop.model, optimizer=self.loop.optimizer, every=7)
        return str(raised.value)


@pytest.mark.slow
def test_ranks_that_train_together_are_one_member(open_run) -> None:
    run = open_run("ranks", every=2, staleness=StalenessConfig(max_intervals=1e6), timeouts=SHORT)
    loop = Loop(nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(288, 4)))
    ranks: list[Any] = [Rank.remote() for _ in range(2)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with join("ranks", loop.model, optimizer=loop.optimizer, name="single") as single:
        ids = ray.get([rank.join.remote("ranks", number, port) for number, rank in enumerate(ranks)], timeout=60)
        assert ids == [1, 1]
        for text in ray.get([rank.refuse.remote("ranks") for rank in ranks]):
            assert "every=7" in text

        def both_have_grafted() -> bool:
            loop.step(2)
            (grafts, weights, state), (other_grafts, other_weights, other_state) = ray.get(
                [rank.train.remote(2) for rank in ranks]
            )
            assert (grafts, weights, state) == (other_grafts, other_weights, other_state)
            return grafts >= 2 and single.grafts >= 2

        until(both_have_grafted)
        assert len(run.status().networks) == 2
        run.scale(1)
        until(lambda: ray.get([rank.train.remote(2) for rank in ranks]) and ray.get(ranks[1].should_stop.remote()))
        assert ray.get(ranks[0].should_stop.remote())
    ray.get([rank.leave.remote() for rank in ranks])
    for rank in ranks:
        ray.kill(rank)


def test_coordinator_answers_while_many_calls_wait(open_run) -> None:
    """Networks wait at a barrier in one call each. More of them than Ray runs by default must block nobody."""
    run = open_run("crowd")
    coordinator: Any = ray.get_actor(coordinator_name("crowd"), namespace=NAMESPACE)
    waiting = [coordinator.events.remote(10**9, 60.0) for _ in range(1200)]
    began = time.monotonic()
    assert run.status().networks == ()
    assert time.monotonic() - began < 20.0
    run.stop(seconds=30)
    ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=30.0)
    assert len(ready) == len(waiting), "every wait has ended with the run"
