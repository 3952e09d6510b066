"""A member whose loop belongs to the caller, against a fake coordinator."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from inarch.actors.guest.loop_optimizer import LoopOptimizer
from inarch.actors.guest.member import Member
from inarch.actors.guest.ranks import Ranks
from inarch.actors.guest.session import GuestSession
from inarch.actors.messages import Command, Enrollment, ExitReason, References
from inarch.actors.network.exchange_client import ExchangeClient
from inarch.population.config import ExchangeConfig, GraftConfig, OpenConfig, RunConfig, TimeoutsConfig
from inarch.population.errors import ConfigError
from inarch.population.evaluation.metrics import Metric
from inarch.population.exchange import exchange_rule
from inarch.population.exchange.participant import Participant
from inarch.population.exchange.shared_state import SharedState
from inarch.population.grafting.channels import Channels
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.state.optimizer import create_state
from inarch.population.state.snapshot_info import SnapshotInfo
from tests.fakes.exchange_backend import FakeBackend


class FakeCalls:
    """Answers the calls of a guest to the coordinator as the test says."""

    def __init__(self) -> None:
        self.newest: PublishedSnapshot[References] | None = None
        self.outcomes: list[ExitReason] = []

    def parent(self, *, seconds: float) -> PublishedSnapshot[References] | None:
        return self.newest

    def sign_off(self, outcome: ExitReason, *, seconds: float) -> None:
        self.outcomes.append(outcome)


class Guest:
    """A loop that is a member of a fake run."""

    def __init__(self, number: int, backend: FakeBackend, config: RunConfig, *, every: int = 2, rate: float = 0.1):
        torch.manual_seed(number)
        self.model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=rate, momentum=0.9)
        if config.graft.momentum == "blend":
            create_state(self.optimizer)
        participant = Participant(SharedState(self.model, self.optimizer, config), config)
        enrollment = Enrollment(
            network_id=number, incarnation=1, every=every, num_intervals=0, metrics=(Metric(name="score"),)
        )
        participant.begin(exchange_rule(config, no_channels), network_id=number, num_intervals=0)
        self.calls, self.backend = FakeCalls(), backend
        self.client = ExchangeClient(backend, config, participant.layout, logger=LOGGER)
        session = GuestSession(self.client, self.calls, fetch_seconds=1.0)
        optimizer = LoopOptimizer(self.optimizer)
        self.member = Member(participant, enrollment, session, optimizer=optimizer, ranks=Ranks())

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            self.optimizer.zero_grad()
            self.model(torch.ones(2, 1, 3, 3)).square().mean().backward()
            self.optimizer.step()

    def publish(self) -> PublishedSnapshot[References]:
        """Train to the end of an interval, and return the snapshot that was published."""
        before, deadline = len(self.backend.published()), time.monotonic() + 30.0
        while len(self.backend.published()) == before:
            assert time.monotonic() < deadline
            self.step()
            self.client.flush(seconds=5.0)
        return self.backend.published()[-1]

    def weights(self) -> torch.Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.model.parameters()])


def no_channels() -> Channels:
    raise AssertionError("no rule of these tests needs channels")


LOGGER = logging.getLogger("inarch")


@pytest.fixture
def guest() -> Iterator[Callable[..., Guest]]:
    """Makes guests, each with a coordinator of its own, and closes them after the test."""
    made: list[Guest] = []

    def make(number: int = 0, *, every: int = 2, rate: float = 0.1, **settings: Any) -> Guest:
        timeouts = TimeoutsConfig(lease_seconds=2.0, fetch_seconds=1.0)
        config = OpenConfig(timeouts=timeouts, **settings).run_config("run")
        made.append(Guest(number, FakeBackend(), config, every=every, rate=rate))
        return made[-1]

    yield make
    for one in made:
        one.client.close()


def give(guest: Guest, donor: Guest) -> None:
    """Let a guest's coordinator answer with the donor's newest snapshot."""
    published = donor.publish()
    bytes_of = donor.backend.get(published.payload, seconds=1.0)
    assert not isinstance(bytes_of, ExchangeOutcome)
    references = guest.backend.put(bytes_of)
    assert references is not None
    copy = PublishedSnapshot(origin=published.origin, information=published.information, payload=references)
    guest.backend.answer = lambda own: (copy,)
    guest.calls.newest = copy


def test_optimizer_hook_exchanges_after_each_interval(guest) -> None:
    one = guest(every=2)
    one.step(5)
    one.client.flush(seconds=5.0)
    assert one.member.interval == 2 and one.member.state_dict()["steps_in_interval"] == 1
    assert [item.origin.step for item in one.backend.published()] == [2, 4]
    outcomes = [report.outcome for reports, _ in one.backend.posts for report in reports]
    assert outcomes.count(None) == 2  # a report before each exchange, and one after it
    assert set(outcomes) - {None} <= {ExchangeOutcome.NOTHING_YET, ExchangeOutcome.LATE}


def test_scions_are_requested_a_tenth_of_an_interval_ahead(guest) -> None:
    one = guest(every=20)
    one.step(17)
    time.sleep(0.05)
    assert one.backend.requests == []
    one.step(1)
    until(lambda: len(one.backend.requests) == 1)
    own: SnapshotInfo = one.backend.requests[0]
    assert (own.interval, own.trained_intervals) == (1, 1.0)


def test_graft_changes_the_weights_and_is_reported(guest) -> None:
    one, other = guest(0), guest(1)
    give(one, other)
    one.step(1)
    until(lambda: one.backend.requests)
    time.sleep(0.05)
    before = one.weights()
    one.optimizer.zero_grad(set_to_none=True)
    summary = one.member.exchange()
    assert summary.outcome is ExchangeOutcome.GRAFTED and summary.scions == (1,)
    assert summary.alpha is not None and 0.0 < summary.alpha < 1.0 and summary.seconds > 0.0
    assert not torch.equal(before, one.weights())
    one.client.flush(seconds=5.0)
    report = one.backend.posts[-1][0][-1]
    assert (report.grafts, report.scion, report.epoch, report.train_loss) == (1, 1, None, None)
    assert {row["layer"] for row in report.graft_rows} and report.graft_rows[0]["scion"] == 1


def test_exchange_waits_no_longer_than_50_ms_for_others(guest) -> None:
    one = guest()
    one.backend.answer_gate.clear()
    one.backend.gate.clear()
    one.member.exchange()  # allocates
    summary = one.member.exchange()
    assert summary.outcome is ExchangeOutcome.LATE
    assert summary.seconds < 0.15
    one.backend.answer_gate.set()
    one.backend.gate.set()


def test_told_numbers_are_means_of_the_interval(guest) -> None:
    one = guest()
    one.member.tell(loss=1.0, examples=4)
    one.member.tell(loss=torch.tensor(3.0, requires_grad=True), examples=4, score=0.75)
    one.step(2)
    one.member.tell(loss=float("nan"))
    one.step(2)
    one.client.flush(seconds=5.0)
    reports = [report for posted, _ in one.backend.posts for report in posted if report.outcome is None]
    assert [report.train_loss for report in reports] == [2.0, None]
    assert [report.examples for report in reports] == [8, None]
    assert [report.validation_metrics["score"] for report in reports] == [0.75, None]
    assert one.backend.published()[-1].origin.score == 0.75


def test_weights_that_are_not_finite_are_not_published(guest, caplog) -> None:
    one = guest()
    with torch.no_grad():
        one.model[0].weight[0, 0, 0, 0] = torch.nan
    assert one.member.exchange().outcome is ExchangeOutcome.NOT_FINITE
    one.client.flush(seconds=5.0)
    assert one.backend.published() == []
    assert "0.weight" in caplog.text and "nothing is exchanged" in caplog.text


def test_pbt_scales_the_learning_rates(guest) -> None:
    rule = ExchangeConfig(rule="pbt")
    one, other = guest(0, exchange=rule), guest(1, exchange=rule, rate=0.01)
    other.member.tell(score=0.9)
    one.member.tell(score=0.1)
    give(one, other)
    until(lambda: one.member.exchange().outcome is ExchangeOutcome.GRAFTED)
    assert one.optimizer.param_groups[0]["lr"] == pytest.approx(0.01, rel=0.21)
    assert torch.allclose(one.weights(), other.weights())
    assert not one.optimizer.state, "momentum of other weights was kept"


def test_momentum_is_blended_with_the_weights(guest) -> None:
    graft = GraftConfig(momentum="blend")
    one, other = guest(0, graft=graft), guest(1, graft=graft)
    give(one, other)
    weight = one.model[3].weight
    assert torch.equal(one.optimizer.state[weight]["momentum_buffer"], torch.zeros_like(weight))
    until(lambda: one.member.exchange().outcome is ExchangeOutcome.GRAFTED)
    assert one.optimizer.state[weight]["momentum_buffer"].abs().sum() > 0
    one.step()


def test_adopt_clones_weights_and_place(guest) -> None:
    one, other = guest(0), guest(1)
    assert not one.member.adopt()
    other.publish()
    other.publish()
    give(one, other)
    assert one.member.adopt()
    assert one.member.interval == 3
    origin = one.calls.newest.origin
    one.publish()
    assert one.backend.published()[-1].origin.trained_steps == origin.trained_steps + 2


@pytest.mark.parametrize("how", ["adopt", "load"])
def test_replaced_weights_do_not_count_as_training(guest, how: str) -> None:
    """The learning rate is 0. A scion that is behind, and that equals the member, must change nothing."""
    one, other = guest(0, rate=0.0), guest(1, rate=0.0)
    if how == "load":
        other.model.load_state_dict(one.model.state_dict())
    for _ in range(5):
        other.publish()
    give(one, other)
    one.backend.answer = lambda own: ExchangeOutcome.NOTHING_YET
    state = one.member.state_dict()
    for _ in range(6):
        one.publish()
    if how == "adopt":
        one.optimizer.state[one.model[0].weight]["momentum_buffer"].fill_(9.0)
        assert one.member.adopt() and not one.optimizer.state
    else:
        with torch.no_grad():
            for own, loaded in zip(one.model.parameters(), other.model.parameters(), strict=True):
                own.copy_(loaded + 1.0)
        one.publish()
        one.model.load_state_dict(other.model.state_dict())
        one.member.load_state_dict(state | {"interval": 6, "trained_intervals": 6.0})
    copy, before = one.calls.newest, one.weights()
    one.backend.answer = lambda own: (copy,)
    for _ in range(3):
        one.publish()
    assert one.member.grafts > 0
    torch.testing.assert_close(one.weights(), before, rtol=0.0, atol=1e-5)


def test_state_dict_is_json_and_restores_the_place(guest) -> None:
    one, other = guest(0), guest(0)
    one.step(5)
    state = json.loads(json.dumps(one.member.state_dict()))
    other.member.load_state_dict(state)
    assert other.member.state_dict() == state
    other.step(1)
    assert other.member.interval == 3
    with pytest.raises(ConfigError, match="must have the keys"):
        other.member.load_state_dict({"interval": 3})


def test_older_state_does_not_stop_publishing(guest) -> None:
    one = guest()
    state = one.member.state_dict()
    one.publish()
    one.publish()
    one.member.load_state_dict(state)
    steps = [item.origin.step for item in one.backend.published()]
    one.publish()
    assert one.backend.published()[-1].origin.step > steps[-1]


@pytest.mark.parametrize("command", [Command.STOP, Command.LEAVE, Command.FENCED])
def test_command_of_the_coordinator_stops_the_loop(guest, command: Command) -> None:
    one = guest()
    assert not one.member.should_stop
    one.backend.command = command
    one.step(2)
    until(lambda: one.member.should_stop)


def test_leaving_ends_the_exchange_once(guest) -> None:
    one = guest()
    with one.member as member:
        one.step(1)
    member.leave()
    assert one.calls.outcomes == [ExitReason.DONE]
    one.step(4)
    assert member.interval == 0
    with pytest.raises(ConfigError, match="has left"):
        member.exchange()


def test_leaving_after_a_silence_sends_what_is_left(guest) -> None:
    one = guest()
    one.publish()
    one.backend.command = None
    until(lambda: one.client.is_orphaned, seconds=10.0)
    one.backend.command = Command.CONTINUE
    until(lambda: one.publish() is not None)
    one.step(2)
    one.member.leave()
    assert max(one.backend.reported_intervals()) == one.member.interval
    assert one.client.published() == [], "snapshots stay in the object store as long as somebody holds them"


def test_exception_in_the_block_leaves_as_stopped(guest) -> None:
    one = guest()
    with pytest.raises(KeyboardInterrupt), one.member:
        raise KeyboardInterrupt
    assert one.calls.outcomes == [ExitReason.STOPPED]


def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.005)
