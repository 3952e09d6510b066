"""The monitor of a run: what its newest reports say, and which events they cause."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from inarch.actors.coordinator.monitor import RunMonitor
from inarch.actors.event_text import event_text
from inarch.actors.network.log_file import LogFile
from inarch.population.membership.members import MemberRecord, MemberState
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.persistence.storage import Storage
from tests.fakes.origins import origin

MEMBER = MemberRecord(id=0, state=MemberState.TRAINING)


def report(interval: int, *, failure: str = "", seconds: float = 0.0) -> IntervalReport:
    return IntervalReport(
        origin=origin(interval),
        num_intervals=9,
        epoch=float(interval),
        learning_rate=0.1,
        train_loss=1.0,
        train_metrics={},
        validation_metrics={},
        examples=8,
        examples_per_second=1.0,
        seconds={},
        grafts=0,
        outcome=ExchangeOutcome.LATE,
        storage_failure=failure,
        unwritten_seconds=seconds,
    )


@pytest.fixture
def monitor(tmp_path: Path) -> RunMonitor:
    return RunMonitor("run", LogFile(Storage(str(tmp_path)), "coordinator"))


def test_silence_while_this_process_was_frozen_does_not_count(monitor: RunMonitor, monkeypatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("inarch.actors.coordinator.monitor.time.monotonic", lambda: clock[0])
    monitor.record_heartbeat(0)
    clock[0] = 110.0
    monitor.record_heartbeat(1)
    clock[0] = 215.0  # 100 of these seconds were frozen
    monitor.excuse_silence(100.0)
    assert (monitor.silent_seconds(0), monitor.silent_seconds(1)) == (15.0, 5.0)


def test_failing_storage_is_one_event_until_it_is_over(monitor: RunMonitor) -> None:
    for failure, seconds in (("disk full", 3.0), ("disk full", 8.0)):
        monitor.record_report(report(1, failure=failure, seconds=seconds))
    status = monitor.status(MEMBER)
    assert (status.storage_failure, status.unwritten_seconds) == ("disk full", 8.0)
    monitor.record_report(report(2))
    assert monitor.status(MEMBER).storage_failure == ""
    events = [event for event in monitor.after(0) if event.kind == "storage"]
    assert [event.detail["is_failing"] for event in events] == [True, False]
    assert [event_text(event) for event in events] == [
        "network 0: storage fails (disk full)",
        "network 0: storage works again",
    ]
    assert [event["kind"] for event in monitor.life_events()] == ["storage", "storage"]


def test_report_that_is_sent_again_is_counted_once(monitor: RunMonitor) -> None:
    first = report(1)
    monitor.record_report(first)
    monitor.record_report(dataclasses.replace(first, storage_failure="disk full", unwritten_seconds=1.0))
    assert monitor.refusals[ExchangeOutcome.LATE] == 1
    assert [event.kind for event in monitor.after(0)] == ["commit", "refusal", "storage"]
