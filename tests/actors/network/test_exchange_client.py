"""The exchange client against a fake coordinator: late answers, lost owners, silence, and the end of the lease."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from inarch.actors.messages import LARGE_POPULATION, Command, heartbeat_seconds, lease_seconds
from inarch.actors.network.exchange_client import ExchangeClient
from inarch.population.config import Mode, PopulationConfig, RunConfig, TimeoutsConfig
from inarch.population.errors import RunError
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.packing import SnapshotPacking
from inarch.population.state.snapshot import Layout, Snapshot
from inarch.population.state.snapshot_info import SnapshotInfo
from inarch.population.training.trainer import Trainer
from tests.conftest import small_config, tiny_task
from tests.fakes.exchange_backend import FakeBackend

TIMEOUTS = TimeoutsConfig(lease_seconds=0.6, fetch_seconds=0.5, barrier_seconds=1.0)


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    """A snapshot of a small network."""
    config = small_config()
    made = Trainer(tiny_task(config), config, network_id=0).snapshot()
    return dataclasses.replace(made, buffer=made.buffer.copy())


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def clients(snapshot: Snapshot, backend: FakeBackend) -> Iterator[Callable[..., ExchangeClient]]:
    """Makes clients, and closes them after the test."""
    made: list[ExchangeClient] = []

    def make(
        mode: Mode = "async", layout: Layout | None = None, size: int = 4, packing: SnapshotPacking | None = None
    ) -> ExchangeClient:
        config = RunConfig(mode=mode, timeouts=TIMEOUTS, population=PopulationConfig(size=size))
        layout = layout or snapshot.layout
        client = ExchangeClient(backend, config, layout, logger=logging.getLogger("test"), packing=packing)
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


def of_interval(snapshot: Snapshot, interval: int) -> Snapshot:
    origin = dataclasses.replace(snapshot.origin, interval=interval, step=3 * interval)
    return dataclasses.replace(snapshot, origin=origin)


def report(own: SnapshotInfo) -> IntervalReport:
    return IntervalReport(
        origin=own,
        num_intervals=4,
        epoch=1.0,
        learning_rate=0.1,
        train_loss=1.0,
        train_metrics={"accuracy": 0.5},
        validation_metrics={"accuracy": None},
        examples=96,
        examples_per_second=10.0,
        seconds={},
        grafts=0,
    )


def wait_until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.005)


def publish(client: ExchangeClient, snapshot: Snapshot, interval: int) -> Snapshot:
    published = of_interval(snapshot, interval)
    client.publish_interval(report(published.origin), published)
    return published


def test_publish_sends_report_and_reference_of_a_copy(clients, backend: FakeBackend, snapshot: Snapshot) -> None:
    client = clients()
    publish(client, snapshot, 1)
    client.flush(seconds=5.0)
    assert backend.reported_intervals() == [1]
    (published,) = backend.published()
    stored = backend.get(published.payload, seconds=1.0)
    assert isinstance(stored, np.ndarray) and np.array_equal(stored, snapshot.buffer)


def test_published_bytes_are_those_of_the_named_snapshot(clients, snapshot: Snapshot) -> None:
    client = clients()
    published = publish(client, snapshot, 1)
    client.flush(seconds=5.0)
    assert np.array_equal(client.published_bytes(published.origin), snapshot.buffer)
    with pytest.raises(RunError, match="network 0: the snapshot of interval 2 is not there any more"):
        client.published_bytes(of_interval(snapshot, 2).origin)


def test_publish_takes_the_bytes_that_were_put_early(clients, backend: FakeBackend, snapshot: Snapshot) -> None:
    client = clients()
    backend.put_gate.clear()
    client.put_early(snapshot)
    assert backend.published() == [] and not client.published(), "the caller does not wait, and nothing is published"
    backend.put_gate.set()
    published = publish(client, snapshot, 1)
    client.flush(seconds=5.0)
    (sent,) = backend.published()
    assert sent.origin == published.origin and backend.num_puts == 1
    changed = of_interval(dataclasses.replace(snapshot, buffer=snapshot.buffer.copy()), 2)
    client.put_early(snapshot)
    client.publish_interval(report(changed.origin), changed)
    client.flush(seconds=5.0)
    assert backend.num_puts == 3, "bytes of another buffer are put anew"


def test_put_that_hangs_costs_the_exchange_alone(clients, backend: FakeBackend, snapshot: Snapshot) -> None:
    client = clients()
    client.fetch_seconds = 0.1
    backend.put_gate.clear()
    client.put_early(snapshot)
    publish(client, snapshot, 1)
    client.flush(seconds=5.0)
    client.put_early(snapshot)
    assert backend.published() == [] and backend.reported_intervals() == [1] and backend.num_puts == 1
    backend.put_gate.set()
    wait_until(lambda: publish(client, snapshot, 2) and client.published())
    client.flush(seconds=5.0)
    assert [item.origin.interval for item in backend.published()] == [2]


def test_publish_during_a_post_skips_the_snapshot(clients, backend, snapshot: Snapshot) -> None:
    client = clients()
    backend.gate.clear()
    for interval in (1, 2, 3):
        publish(client, snapshot, interval)
    backend.gate.set()
    client.flush(seconds=5.0)
    assert [item.origin.interval for item in backend.published()] == [1]
    assert backend.reported_intervals() == [1, 2, 3]


def test_publish_in_lockstep_sends_every_version(clients, backend: FakeBackend, snapshot: Snapshot) -> None:
    client = clients("lockstep")
    for interval in (1, 2, 3):
        publish(client, snapshot, interval)
        client.flush(seconds=5.0)
    assert [item.origin.interval for item in backend.published()] == [1, 2, 3]
    assert [item.origin.interval for item in client.published()] == [2, 3], "others may still fetch version 2"


def test_publish_into_a_full_store_costs_the_exchange_alone(clients, backend: FakeBackend, snapshot: Snapshot) -> None:
    client = clients()
    backend.is_full = True
    publish(client, snapshot, 1)
    client.flush(seconds=5.0)
    assert backend.published() == [] and backend.reported_intervals() == [1]


def test_silent_coordinator_gets_all_reports_in_order_later(clients, backend, snapshot: Snapshot) -> None:
    client = clients()
    backend.command = None
    for interval in (1, 2, 3):
        publish(client, snapshot, interval)
    time.sleep(0.1)
    assert backend.posts == []
    backend.command = Command.CONTINUE
    client.flush(seconds=5.0)
    assert backend.reported_intervals() == [1, 2, 3]
    assert [item.origin.interval for item in backend.published()] == [1]


def test_silence_for_a_lease_orphans_the_network(clients, backend: FakeBackend, snapshot: Snapshot) -> None:
    client = clients()
    backend.command = None
    publish(client, snapshot, 1)
    assert client.must_end.wait(5.0) and client.is_orphaned
    began = time.monotonic()
    client.flush(seconds=60.0)
    assert time.monotonic() - began < 10.0, "a network without a coordinator waits for no answer"


def test_contact_by_a_control_call_extends_the_lease(clients, backend: FakeBackend) -> None:
    client = clients()
    backend.command = None
    deadline = time.monotonic() + 3 * TIMEOUTS.lease_seconds
    while time.monotonic() < deadline:
        client.record_contact()
        time.sleep(0.05)
    assert not client.is_orphaned


def test_heartbeats_are_sent_without_news(clients, backend: FakeBackend) -> None:
    clients()
    wait_until(lambda: len(backend.posts) >= 3)
    assert all(post == ([], None) for post in backend.posts)


def test_fenced_command_ends_the_network_without_orphaning_it(clients, backend: FakeBackend) -> None:
    client = clients()
    backend.command = Command.FENCED
    assert client.must_end.wait(5.0)
    assert client.command is Command.FENCED and not client.is_orphaned


def scions_of(client: ExchangeClient, own: SnapshotInfo) -> tuple[Snapshot, ...] | ExchangeOutcome:
    client.prefetch(own)
    time.sleep(0.2)
    return client.fetch_scions(own)


def test_fetch_returns_the_bytes_of_the_selected_snapshot(clients, backend: FakeBackend, snapshot: Snapshot) -> None:
    client = clients()
    publish(client, snapshot, 1)
    client.flush(seconds=5.0)
    backend.answer = lambda own: tuple(backend.published())
    scions = scions_of(client, snapshot.origin)
    assert isinstance(scions, tuple) and np.array_equal(scions[0].buffer, snapshot.buffer)


def test_fetch_late_answer_serves_the_next_interval(clients, backend, snapshot) -> None:
    client = clients()
    publish(client, snapshot, 1)
    client.flush(seconds=5.0)
    backend.answer = lambda own: tuple(backend.published())
    backend.answer_gate.clear()
    client.prefetch(snapshot.origin)
    began = time.monotonic()
    assert client.fetch_scions(snapshot.origin) is ExchangeOutcome.LATE
    assert time.monotonic() - began < 0.4, "training waits 50 ms at most"
    backend.answer_gate.set()
    time.sleep(0.2)
    assert isinstance(client.fetch_scions(snapshot.origin), tuple)
    assert client.fetch_scions(snapshot.origin) is ExchangeOutcome.LATE, "scions are handed out once"


def test_fetch_from_a_silent_coordinator_is_late(clients, backend: FakeBackend, snapshot: Snapshot) -> None:
    client = clients()
    publish(client, snapshot, 1)
    client.flush(seconds=5.0)
    backend.answer = lambda own: None
    client.prefetch(snapshot.origin)
    wait_until(lambda: bool(backend.requests))
    assert client.fetch_scions(snapshot.origin) is ExchangeOutcome.LATE
    backend.answer = lambda own: tuple(backend.published())
    client.prefetch(snapshot.origin)
    wait_until(lambda: isinstance(client.fetch_scions(snapshot.origin), tuple))


def test_fetch_of_a_snapshot_whose_owner_died_is_gone(clients, backend: FakeBackend, snapshot: Snapshot) -> None:
    client = clients()
    publish(client, snapshot, 1)
    client.flush(seconds=5.0)
    backend.answer = lambda own: tuple(backend.published())
    backend.lose(backend.published()[0])
    assert scions_of(client, snapshot.origin) is ExchangeOutcome.GONE


def test_fetch_of_another_structure_is_refused(clients, backend: FakeBackend, snapshot: Snapshot) -> None:
    client = clients()
    publish(client, snapshot, 1)
    client.flush(seconds=5.0)
    other = dataclasses.replace(backend.published()[0].origin, structure="other")
    backend.answer = lambda own: (dataclasses.replace(backend.published()[0], origin=other),)
    assert scions_of(client, snapshot.origin) is ExchangeOutcome.STRUCTURE


def test_fetch_of_several_keeps_those_that_came(clients, backend: FakeBackend, snapshot: Snapshot) -> None:
    client = clients("lockstep")
    for interval in (1, 2):
        publish(client, snapshot, interval)
        client.flush(seconds=5.0)
    backend.answer = lambda own: tuple(backend.published())
    backend.lose(backend.published()[0])
    scions = client.fetch_scions(snapshot.origin)
    assert isinstance(scions, tuple) and [scion.origin.interval for scion in scions] == [2]
    assert [count for count, _ in backend.waited] == [2], "both are fetched at once"


def test_longest_wait_for_a_snapshot_follows_its_size(clients, snapshot: Snapshot) -> None:
    assert clients().fetch_seconds == TIMEOUTS.fetch_seconds
    large = dataclasses.replace(snapshot.layout, nbytes=7_000_000_000)
    assert clients(layout=large).fetch_seconds == pytest.approx(140.0)


def test_fetch_in_lockstep_ignores_an_earlier_answer(clients, backend, snapshot: Snapshot) -> None:
    client = clients("lockstep")
    backend.answer_gate.clear()
    backend.answer = lambda own: ExchangeOutcome.NO_NEIGHBOR if own.interval == 1 else ExchangeOutcome.NOTHING_YET
    assert client.fetch_scions(of_interval(snapshot, 1).origin) is ExchangeOutcome.BARRIER_TIMEOUT
    backend.answer_gate.set()
    assert client.fetch_scions(of_interval(snapshot, 2).origin) is ExchangeOutcome.NOTHING_YET


def test_fetch_in_lockstep_asks_again_after_an_error(clients, backend: FakeBackend, snapshot: Snapshot) -> None:
    client, errors = clients("lockstep"), [RuntimeError("out of memory")]

    def answer(own: SnapshotInfo) -> ExchangeOutcome:
        if errors:
            raise errors.pop()
        return ExchangeOutcome.NOTHING_YET

    backend.answer = answer
    assert client.fetch_scions(snapshot.origin) is ExchangeOutcome.NOTHING_YET and not errors


def test_fetch_in_lockstep_ends_when_the_network_is_orphaned(clients, backend: FakeBackend, snapshot: Snapshot) -> None:
    client = clients("lockstep")
    backend.command, backend.answer = None, lambda own: None
    assert client.fetch_scions(snapshot.origin) is ExchangeOutcome.STOPPING
    assert client.is_orphaned


def test_stop_while_fetching_in_lockstep_is_returned(clients, backend: FakeBackend, snapshot: Snapshot) -> None:
    client = clients("lockstep")
    backend.answer = lambda own: ExchangeOutcome.STOPPING
    assert client.fetch_scions(snapshot.origin) is ExchangeOutcome.STOPPING


def test_reports_of_a_large_population_wait_for_a_snapshot(
    clients: Callable[..., ExchangeClient], backend: FakeBackend, snapshot: Snapshot
) -> None:
    client = clients(size=LARGE_POPULATION + 1)
    client.report(report(snapshot.origin))
    time.sleep(0.05)
    assert not any(reports for reports, _ in backend.posts)
    client.publish_interval(report(snapshot.origin), snapshot)
    client.flush(seconds=5.0)
    (sent,) = [post for post in backend.posts if post[0]]
    assert len(sent[0]) == 2 and sent[1] is not None
    client.report(report(snapshot.origin))
    client.flush(seconds=5.0)
    assert len([post for post in backend.posts if post[0]]) == 2, "the end of a network waits for no heartbeat"


def test_lease_of_a_large_population_is_longer(clients: Callable[..., ExchangeClient], backend: FakeBackend) -> None:
    small, large = RunConfig(), RunConfig(population=PopulationConfig(size=LARGE_POPULATION + 1))
    assert (lease_seconds(small), heartbeat_seconds(small)) == (30.0, 5.0)
    assert (lease_seconds(large), heartbeat_seconds(large)) == (90.0, 45.0)
    backend.command = None  # the coordinator is silent
    orphaned = {size: clients(size=size) for size in (2, LARGE_POPULATION + 1)}
    time.sleep(1.5 * TIMEOUTS.lease_seconds)
    assert [client.is_orphaned for client in orphaned.values()] == [True, False]


def test_fetched_snapshots_are_prepared_by_the_fetching_thread(backend: FakeBackend, snapshot: Snapshot) -> None:
    names: list[str] = []

    def prepare(found: Snapshot) -> Snapshot:
        names.append(threading.current_thread().name)
        return dataclasses.replace(found, finite=True)

    config = RunConfig(timeouts=TIMEOUTS)
    client = ExchangeClient(backend, config, snapshot.layout, logger=logging.getLogger("test"), prepare=prepare)
    client.publish(snapshot)
    client.flush(seconds=5.0)
    published = backend.published()[0]
    backend.answer = lambda own: (published,)
    client.prefetch(snapshot.origin)
    deadline = time.monotonic() + 5.0
    found: tuple[Snapshot, ...] | ExchangeOutcome = ExchangeOutcome.LATE
    while isinstance(found, ExchangeOutcome) and time.monotonic() < deadline:
        found = client.fetch_scions(snapshot.origin)
    client.close()
    assert not isinstance(found, ExchangeOutcome) and found[0].finite and names == ["exchange-fetch"]


def test_stored_snapshot_is_a_view_of_the_store(
    clients: Callable[..., ExchangeClient], backend: FakeBackend, snapshot: Snapshot
) -> None:
    client = clients()
    assert client.stored(snapshot) is None
    client.publish(snapshot)
    stored = client.stored(snapshot)
    assert stored is not None and stored.buffer is not snapshot.buffer
    assert np.array_equal(stored.buffer, snapshot.buffer)
    client.flush(seconds=5.0)
    assert np.shares_memory(stored.buffer, backend.get(backend.published()[0].payload, seconds=1.0))
    assert client.stored(of_interval(snapshot, 9)) is None


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_packed_snapshots_are_smaller_and_are_widened(
    clients, backend: FakeBackend, snapshot: Snapshot, precision: str
) -> None:
    packing = SnapshotPacking(snapshot.layout, precision, keys=snapshot.state())
    client = clients(packing=packing)
    before = snapshot.buffer.copy()
    publish(client, snapshot, 1)
    client.flush(seconds=5.0)
    (published,) = backend.published()
    stored = backend.get(published.payload, seconds=1.0)
    assert isinstance(stored, np.ndarray) and stored.nbytes == published.nbytes == packing.nbytes
    assert stored.nbytes < snapshot.buffer.nbytes * (0.6 if precision == "float16" else 0.4)
    assert client.stored(of_interval(snapshot, 1)) is None, "a checkpoint must not take rounded weights"
    assert np.array_equal(snapshot.buffer, before)
    backend.answer = lambda own: tuple(backend.published())
    scions = scions_of(client, snapshot.origin)
    assert isinstance(scions, tuple) and np.array_equal(scions[0].buffer, packing.as_received(snapshot.buffer))
    own = clients()
    assert scions_of(own, snapshot.origin) is ExchangeOutcome.STRUCTURE, "a network that packs nothing refuses it"
