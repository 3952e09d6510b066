"""What a coordinator knows and tells of a run: how each network stands, what happened, how exchanges ended."""

from __future__ import annotations

import collections
import dataclasses
import time
from typing import Any

from inarch.actors.coordinator.ray_metrics import RayMetrics
from inarch.actors.messages import Event, NetworkStatus
from inarch.population.membership.members import Member
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.persistence.interval_report import IntervalReport

KEPT_EVENTS = 4096
"""Events kept for drivers that read them; older ones are in the history."""


class RunMonitor:
    """Newest reports, events, and counts of refusals."""

    def __init__(self, run: str) -> None:
        self.refusals: collections.Counter[str] = collections.Counter()
        self.num_events = 0
        self.metrics = RayMetrics(run)
        self._events: collections.deque[Event] = collections.deque(maxlen=KEPT_EVENTS)
        self._known: dict[int, NetworkStatus] = {}
        self._heartbeats: dict[int, float] = {}

    def emit(self, kind: Any, network_id: int | None, **detail: Any) -> None:
        """An event."""
        self.num_events += 1
        self._events.append(
            Event(number=self.num_events, kind=kind, network_id=network_id, seconds=time.time(), detail=detail)
        )

    def after(self, number: int) -> list[Event]:
        """Events numbered above `number`; a reader who knows numbers of an earlier coordinator begins anew."""
        number = 0 if number > self.num_events else number
        return [event for event in self._events if event.number > number]

    def record_placement(self, network_id: int, *, interval: int, process: int, node: str) -> None:
        """A network's process is there."""
        self._known[network_id] = dataclasses.replace(
            self._of(network_id), interval=interval, process=process, node=node
        )
        self.record_heartbeat(network_id)

    def record_heartbeat(self, network_id: int) -> None:
        """A sign of life."""
        self._heartbeats[network_id] = time.monotonic()

    def silent_seconds(self, network_id: int) -> float:
        """Since the last sign of life; 0 before the first."""
        return time.monotonic() - self._heartbeats[network_id] if network_id in self._heartbeats else 0.0

    def interval(self, network_id: int) -> int:
        """Intervals that a network has completed, as far as known."""
        return self._of(network_id).interval

    def record_report(self, report: IntervalReport, *, is_news: bool = True) -> None:
        """A network's report: what it trained (before its exchange), or how the exchange ended."""
        network_id, known = report.origin.network_id, self._of(report.origin.network_id)
        if report.origin.interval < known.interval:
            return
        self._known[network_id] = dataclasses.replace(
            known,
            interval=report.origin.interval,
            epoch=report.epoch,
            train_loss=report.train_loss,
            validation_accuracy=known.validation_accuracy
            if report.validation_accuracy is None
            else report.validation_accuracy,
            images_per_second=report.images_per_second,
            grafts=report.grafts,
            outcome=report.outcome.value if report.outcome else known.outcome,
            scion=report.scion,
            staleness_intervals=report.staleness.intervals if report.staleness else None,
            staleness_seconds=report.staleness.seconds if report.staleness else None,
        )
        if is_news:
            self._emit_report(report)

    def status(self, member: Member) -> NetworkStatus:
        """A network as it stands."""
        return dataclasses.replace(
            self._of(member.id),
            state=member.state.value,
            incarnation=member.incarnation,
            silent_seconds=round(self.silent_seconds(member.id), 2),
        )

    def _emit_report(self, report: IntervalReport) -> None:
        network_id, interval, outcome = report.origin.network_id, report.origin.interval, report.outcome
        if outcome is None:
            loss, accuracy = report.train_loss, report.validation_accuracy
            self.emit("interval", network_id, interval=interval, loss=loss, accuracy=accuracy)
            return
        self.metrics.exchanged(outcome)
        if outcome is ExchangeOutcome.GRAFTED:
            staleness = report.staleness.intervals if report.staleness else None
            self.emit("graft", network_id, interval=interval, scion=report.scion, staleness=staleness)
        elif outcome.is_refusal:
            self.refusals[outcome] += 1
            self.emit("refusal", network_id, interval=interval, reason=outcome)

    def _of(self, network_id: int) -> NetworkStatus:
        return self._known.get(network_id) or NetworkStatus(network_id=network_id, state="", incarnation=1)
