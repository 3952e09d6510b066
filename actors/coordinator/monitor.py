"""The monitor of a run: newest report of each network, events, and counts of refusals."""

from __future__ import annotations

import collections
import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from inarch.actors.coordinator.ray_metrics import RayMetrics
from inarch.actors.event_text import event_text
from inarch.actors.messages import Event, EventKind, NetworkStatus
from inarch.actors.network.log_file import LogFile
from inarch.population.membership.members import MemberRecord
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.snapshot_info import SnapshotInfo

LOGGED: dict[EventKind, int] = {
    "join": logging.INFO,
    "loss": logging.WARNING,
    "restart": logging.WARNING,
    "pause": logging.INFO,
    "leave": logging.INFO,
    "done": logging.INFO,
    "failure": logging.ERROR,
    "storage": logging.WARNING,
    "damage": logging.WARNING,
    "stop": logging.INFO,
    "finish": logging.INFO,
}
"""Kinds of events in the coordinator's log, with their level. The networks' own logs have a line for each interval."""

MAX_LIFE_EVENTS = 1000
"""Events that changed the run or a member, kept in its record."""

MAX_EVENTS = 4096
"""Events kept for drivers that read them. The history holds older ones."""


class RunMonitor:
    """Newest reports, events and counts of one run."""

    def __init__(self, run: str, log: LogFile, *, per_network: bool = False) -> None:
        """Create a monitor without reports.

        Args:
            run: Name of the run.
            log: Log of the coordinator, which gets a line for each event that changes the run or a member.
            per_network: Whether some metrics are exported for each network.
        """
        self.log = log
        self.refusals: collections.Counter[str] = collections.Counter()
        self.num_events = 0
        self.metrics = RayMetrics(run, per_network=per_network)
        self._events: collections.deque[Event] = collections.deque(maxlen=MAX_EVENTS)
        self._life: collections.deque[dict[str, Any]] = collections.deque(maxlen=MAX_LIFE_EVENTS)
        self._known: dict[int, NetworkStatus] = {}
        self._heartbeats: dict[int, float] = {}
        self._newest: dict[int, tuple[SnapshotInfo, ExchangeOutcome | None]] = {}
        self._failing: set[int | None] = set()

    def emit(self, kind: EventKind, network_id: int | None, **detail: Any) -> None:
        """Append an event.

        Args:
            kind: Kind of the event.
            network_id: Network that it is about. None: the run.
            **detail: Values of JSON types.
        """
        self.num_events += 1
        event = Event(number=self.num_events, kind=kind, network_id=network_id, seconds=time.time(), detail=detail)
        self._events.append(event)
        if kind in LOGGED:
            self._life.append(
                {"seconds": event.seconds, "kind": kind, "network_id": network_id, "detail": dict(detail)}
            )
        self.metrics.count_event(kind)
        if kind in LOGGED:
            self.log.logger.log(LOGGED[kind], event_text(event))

    def life_events(self) -> list[dict[str, Any]]:
        """Return the events that changed the run or a member, as JSON types, for the run's record."""
        return list(self._life)

    def restore_life_events(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Take over the events of the coordinator before a restart.

        Args:
            events: As from `life_events`.
        """
        self._life.extendleft(dict(event) for event in reversed(events))

    def after(self, number: int) -> list[Event]:
        """Return the events numbered above `number`.

        A reader that knows a higher number has read from an earlier coordinator. It gets all events.
        """
        number = 0 if number > self.num_events else number
        return [event for event in self._events if event.number > number]

    def record_placement(self, network_id: int, interval: int, *, process: int, node: str) -> None:
        """Record that the process of a network has started.

        Args:
            network_id: Id of the network.
            interval: Intervals completed.
            process: Process id.
            node: Id of the Ray node.
        """
        known = self._status(network_id)
        self._known[network_id] = dataclasses.replace(known, interval=interval, process=process, node=node)
        self.record_heartbeat(network_id)

    def record_heartbeat(self, network_id: int) -> None:
        """Record a sign of life."""
        self._heartbeats[network_id] = time.monotonic()

    def silent_seconds(self, network_id: int) -> float:
        """Return the seconds since the last sign of life. 0 before the first."""
        return time.monotonic() - self._heartbeats[network_id] if network_id in self._heartbeats else 0.0

    def excuse_silence(self, seconds: float) -> None:
        """Do not count a time in which this process read no heartbeats.

        Args:
            seconds: Length of that time, up to now.
        """
        now = time.monotonic()
        self._heartbeats = {key: min(now, heartbeat + seconds) for key, heartbeat in self._heartbeats.items()}

    def record_report(self, report: IntervalReport, *, is_news: bool = True) -> None:
        """Record a report. An older one than the newest is ignored.

        Args:
            report: The report of an interval, before or after its exchange.
            is_news: Whether it is emitted as an event too. A report that was sent before, to show how storage stands,
                is emitted once.
        """
        network_id, known = report.origin.network_id, self._status(report.origin.network_id)
        if report.origin.interval < known.interval:
            return
        key = report.origin, report.outcome
        is_repeated, self._newest[network_id] = self._newest.get(network_id) == key, key
        self._known[network_id] = dataclasses.replace(
            known,
            interval=report.origin.interval,
            epoch=report.epoch,
            train_loss=report.train_loss,
            validation_metrics=dict(report.validation_metrics) if report.is_evaluated else known.validation_metrics,
            examples_per_second=report.examples_per_second,
            grafts=report.grafts,
            outcome=report.outcome.value if report.outcome else known.outcome,
            scion=report.scion,
            staleness_intervals=report.staleness.intervals if report.staleness else None,
            staleness_seconds=report.staleness.seconds if report.staleness else None,
            storage_failure=report.storage_failure,
            unwritten_seconds=report.unwritten_seconds,
            hyperparameters=dict(report.origin.hyperparameters),
        )
        if is_news and not is_repeated:
            self._emit_report(report)
        self.record_storage(network_id, report.storage_failure)

    def record_storage(self, network_id: int | None, failure: str) -> None:
        """Record whether storage fails, and emit an event when that begins and when it is over.

        Args:
            network_id: Network that cannot write its checkpoints. None: the coordinator cannot write its record.
            failure: What failed. Empty: storage works.
        """
        if failure and network_id not in self._failing:
            self._failing.add(network_id)
            self.emit("storage", network_id, is_failing=True, reason=failure)
        elif not failure and network_id in self._failing:
            self._failing.discard(network_id)
            self.emit("storage", network_id, is_failing=False, reason="")

    def status(self, member: MemberRecord) -> NetworkStatus:
        """Return the status of a member."""
        return dataclasses.replace(
            self._status(member.id),
            state=member.state.value,
            incarnation=member.incarnation,
            name=member.name,
            silent_seconds=round(self.silent_seconds(member.id), 2),
        )

    def _emit_report(self, report: IntervalReport) -> None:
        network_id, interval, outcome = report.origin.network_id, report.origin.interval, report.outcome
        if outcome is None:
            validation = {name: value for name, value in report.validation_metrics.items() if value is not None}
            self.emit("interval", network_id, interval=interval, loss=report.train_loss, validation=validation)
            return
        self.emit("commit", network_id, interval=interval, row=report.row(time=time.time()))
        self.metrics.record_exchange(report)
        if outcome is ExchangeOutcome.GRAFTED:
            staleness = report.staleness.intervals if report.staleness else None
            self.emit("graft", network_id, interval=interval, scion=report.scion, staleness=staleness)
        elif outcome.is_refusal:
            self.refusals[outcome] += 1
            self.emit("refusal", network_id, interval=interval, reason=outcome.value)

    def _status(self, network_id: int) -> NetworkStatus:
        return self._known.get(network_id) or NetworkStatus(network_id=network_id, state="", incarnation=1)
