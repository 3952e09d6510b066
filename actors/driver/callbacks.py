"""Callbacks on the driver: code of the user that follows a run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from inarch.actors.driver.run_result import RunResult
from inarch.actors.messages import Event
from inarch.population.errors import ConfigError
from inarch.population.extension.registry import Registry
from inarch.population.extension.user_code import user_code

STATE_EVENTS = frozenset({"join", "loss", "restart", "pause", "leave", "done", "failure"})
"""Kinds of events that change the state of a network."""

logger = logging.getLogger("inarch")


class RunCallback:
    """Follows a run. Subclass it and override what you need. Every method here does nothing.

    The methods are called one after another, in a thread of the driver, fed by the run's events. A method that raises
    is named in a warning, and the run continues.
    """

    def on_start(self, name: str, path: str) -> None:
        """Called once, when the networks are being placed.

        Args:
            name: Name of the run.
            path: Path or URI of its folder.
        """

    def on_interval(self, row: Mapping[str, Any]) -> None:
        """Called when a network has completed an interval, its exchange included.

        Args:
            row: The row of the history's table `metrics`, by column.
        """

    def on_exchange(self, network_id: int, detail: Mapping[str, Any]) -> None:
        """Called when a network has grafted, or was refused a scion.

        Args:
            network_id: Id of the network.
            detail: interval and outcome. After a graft also scion (id of the donor or None) and staleness (intervals or
                None), after a refusal reason, which equals outcome.
        """

    def on_network_state(self, network_id: int, state: str, detail: Mapping[str, Any]) -> None:
        """Called when a network joins, is lost, restarts, pauses, leaves, finishes or fails.

        Args:
            network_id: Id of the network.
            state: Kind of the event: join, loss, restart, pause, leave, done or failure.
            detail: incarnation, reason, interval or outcome.
        """

    def on_finish(self, result: RunResult | None) -> None:
        """Called once, at the end.

        Args:
            result: Result of the run. None if it failed.
        """


CALLBACKS: Registry[RunCallback | Callable[[], RunCallback]] = Registry(
    "callback",
    "callbacks",
    accepts=lambda target: callable(target) or isinstance(target, RunCallback),
    form="a RunCallback, or a class or function that returns one",
)
"""Callbacks by name: callbacks, or classes or functions that return a callback."""


def resolve_callbacks(callbacks: Sequence[RunCallback | str]) -> list[RunCallback]:
    """Return callbacks, of which some may be given by name.

    Args:
        callbacks: Callbacks, names in CALLBACKS, or `module:object`.

    Raises:
        ConfigError: There is no such callback, or one of them is no RunCallback.
        UserCodeError: The caller's class or function raised.
    """
    resolved: list[RunCallback] = []
    for callback in callbacks:
        value: object = callback
        if isinstance(callback, str):
            value = CALLBACKS.resolve(callback)
            if not isinstance(value, RunCallback):
                with user_code(f"callback {callback}"):
                    value = value()
        if not isinstance(value, RunCallback):
            raise ConfigError(f"callbacks must be instances of RunCallback, got {value!r}; subclass it")
        resolved.append(value)
    return resolved


class CallbackDispatcher:
    """Calls callbacks in a thread of its own, so that slow ones do not slow the driver."""

    def __init__(self, callbacks: Sequence[RunCallback], *, name: str, path: str) -> None:
        """Create the dispatcher and call `on_start`.

        Args:
            callbacks: In the order in which they are called.
            name: Name of the run.
            path: Path or URI of its folder.
        """
        self._callbacks = tuple(callbacks)
        self._thread: threading.Thread | None = None
        self._is_finished = False
        self._call("on_start", name, path)

    def follow(self, events: Iterable[Event]) -> None:
        """Begin to pass events on.

        Args:
            events: Events of the run, from its start to its end.
        """
        self._thread = threading.Thread(target=self._run, args=(events,), name="callbacks", daemon=True)
        self._thread.start()

    def finish(self, result: RunResult | None, *, seconds: float = 10.0) -> None:
        """Wait for the remaining events and call `on_finish`, once.

        Args:
            result: Result of the run. None if it failed.
            seconds: Longest wait for the remaining events.
        """
        if self._is_finished:
            return
        self._is_finished = True
        if self._thread is not None:
            self._thread.join(seconds)
        self._call("on_finish", result)

    def _run(self, events: Iterable[Event]) -> None:
        try:
            for event in events:
                self._pass_on(event)
        except Exception as error:  # the coordinator is gone: the driver's own calls report that
            logger.warning("the events of the run have ended: %s", error)

    def _pass_on(self, event: Event) -> None:
        detail = dict(event.detail)
        if event.kind == "commit":
            self._call("on_interval", detail["row"])
        elif event.network_id is None:
            return
        elif event.kind == "graft":
            self._call("on_exchange", event.network_id, detail | {"outcome": "grafted"})
        elif event.kind == "refusal":
            self._call("on_exchange", event.network_id, detail | {"outcome": detail["reason"]})
        elif event.kind in STATE_EVENTS:
            self._call("on_network_state", event.network_id, event.kind, detail)

    def _call(self, method: str, *arguments: Any) -> None:
        for callback in self._callbacks:
            try:
                getattr(callback, method)(*arguments)
            except Exception as error:
                name = type(callback).__name__
                logger.warning("callback %s raised in %s: %s: %s", name, method, type(error).__name__, error)
