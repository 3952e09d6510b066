"""Callbacks on the driver, fed by a list of events."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytest

from inarch.actors.driver.callbacks import CallbackDispatcher, RunCallback, resolve_callbacks
from inarch.actors.driver.run_result import RunResult
from inarch.actors.messages import Event, EventKind
from inarch.population.errors import ConfigError


class Recorder(RunCallback):
    """Records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def on_start(self, name: str, path: str) -> None:
        self.calls.append(("start", name, path))

    def on_interval(self, row: Mapping[str, Any]) -> None:
        self.calls.append(("interval", row["network"], row["train_loss"]))

    def on_exchange(self, network_id: int, detail: Mapping[str, Any]) -> None:
        self.calls.append(("exchange", network_id, detail["outcome"]))

    def on_network_state(self, network_id: int, state: str, detail: Mapping[str, Any]) -> None:
        self.calls.append((state, network_id))

    def on_finish(self, result: RunResult | None) -> None:
        self.calls.append(("finish", result))


class Broken(RunCallback):
    """Raises in each interval."""

    def on_interval(self, row: Mapping[str, Any]) -> None:
        raise ValueError("no server")


def event(kind: EventKind, network_id: int | None = 0, **detail: Any) -> Event:
    return Event(number=1, kind=kind, network_id=network_id, seconds=0.0, detail=detail)


EVENTS = [
    event("join", incarnation=1),
    event("interval", interval=1, loss=1.0, accuracy=None),
    event("commit", interval=1, row={"network": 0, "train_loss": 1.0}),
    event("graft", interval=1, scion=1, staleness=0.5),
    event("refusal", 1, interval=1, reason="too_stale"),
    event("done"),
    event("finish", None, is_complete=True),
]


def test_callbacks_get_each_kind_of_event_in_order() -> None:
    recorder, result = Recorder(), RunResult(path="runs/x", table=None)
    dispatcher = CallbackDispatcher([recorder], name="x", path="runs/x")
    dispatcher.follow(EVENTS)
    dispatcher.finish(result)
    dispatcher.finish(result)
    assert recorder.calls == [
        ("start", "x", "runs/x"),
        ("join", 0),
        ("interval", 0, 1.0),
        ("exchange", 0, "grafted"),
        ("exchange", 1, "too_stale"),
        ("done", 0),
        ("finish", result),
    ]


def test_callback_that_raises_is_named_and_the_others_are_called(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    with caplog.at_level(logging.WARNING, "inarch"):
        dispatcher = CallbackDispatcher([Broken(), recorder], name="x", path="runs/x")
        dispatcher.follow(EVENTS)
        dispatcher.finish(None)
    assert "callback Broken raised in on_interval: ValueError: no server" in caplog.text
    assert ("interval", 0, 1.0) in recorder.calls and recorder.calls[-1] == ("finish", None)


def test_callbacks_survive_the_end_of_the_event_stream(caplog: pytest.LogCaptureFixture) -> None:
    def events():
        yield EVENTS[0]
        raise ConnectionError("the coordinator is gone")

    recorder = Recorder()
    with caplog.at_level(logging.WARNING, "inarch"):
        dispatcher = CallbackDispatcher([recorder], name="x", path="runs/x")
        dispatcher.follow(events())
        dispatcher.finish(None)
    assert recorder.calls == [("start", "x", "runs/x"), ("join", 0), ("finish", None)]
    assert "the events of the run have ended: the coordinator is gone" in caplog.text


def test_resolve_callbacks_refuses_other_objects() -> None:
    with pytest.raises(ConfigError, match="must be instances of RunCallback, got 3"):
        resolve_callbacks([3])  # pyright: ignore[reportArgumentType] # wrong on purpose
