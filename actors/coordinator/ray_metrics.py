"""Metrics of a run for Ray's dashboard and Prometheus.

The coordinator exports them for the whole population. Only with `metrics.per_network` do some have a label for each
network, because that would make a scrape too large in a large population.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from ray.util.metrics import Counter, Gauge, Histogram

from inarch.actors.messages import EventKind, NetworkStatus
from inarch.population.evaluation.metrics import Metric
from inarch.population.persistence.interval_report import IntervalReport

PHASES = ("stage", "publish", "fetch", "graft")
"""Phases of an exchange, as in `IntervalReport.seconds`."""

BOUNDARIES = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]
"""Upper bounds of the histogram's buckets, in seconds."""

COUNTED: Mapping[EventKind, str] = {
    "join": "joins",
    "loss": "losses",
    "restart": "restarts",
    "leave": "leaves",
    "failure": "failures",
}
"""Kinds of events that are counted, with the name of the counter."""


class RayMetrics:
    """Gauges, counters and a histogram of one run. They appear as ray_inarch_*, ten seconds late."""

    def __init__(self, run: str, *, per_network: bool = False) -> None:
        """Register the metrics.

        Args:
            run: Name of the run, the label of every metric.
            per_network: Whether some metrics are exported for each network too.
        """
        self._tags = {"run": run}
        self._networks = self._gauge("networks", "Members of the population by state.", "state")
        self._wanted = self._gauge("population_wanted", "Networks that the population is to have.")
        self._intervals = self._gauge("intervals", "Intervals completed: least, median and most.", "of")
        self._scheduled = self._gauge("intervals_scheduled", "Intervals of the schedule. 0 if it is open.")
        self._speed = self._gauge("examples_per_second", "Training speed of all networks together.")
        self._loss = self._gauge("train_loss", "Training loss of the newest intervals: best, mean and worst.", "of")
        self._validation = self._gauge(
            "validation_metric",
            "The task's primary metric on the validation data: best, mean and worst network.",
            "metric",
            "of",
        )
        self._staleness = self._gauge(
            "scion_staleness_intervals",
            "Staleness of the scions grafted last, in intervals: median and greatest.",
            "of",
        )
        self._silent = self._gauge("silent_seconds", "Greatest time since a member's last heartbeat.", "of")
        self._unwritten = self._gauge(
            "unwritten_seconds", "Age of the oldest rows and weights that storage does not take.", "of"
        )
        self._snapshot = self._gauge("snapshot_bytes", "Bytes of a snapshot.")
        self._exchanges = self._counter("exchanges_total", "Exchanges by outcome.", "outcome")
        self._published = self._counter("published_bytes_total", "Bytes of the snapshots published.")
        self._events = {kind: self._counter(f"{name}_total", f"Members' {name}.") for kind, name in COUNTED.items()}
        self._seconds = Histogram(
            "inarch_exchange_seconds", "Duration of an exchange by phase.", BOUNDARIES, ("run", "phase")
        )
        self._seconds.set_default_tags(self._tags)
        self._states: set[str] = set()
        self._each: dict[str, Gauge] = {}
        if per_network:
            for name in ("interval", "train_loss", "validation", "examples_per_second", "staleness_intervals"):
                self._each[name] = self._gauge(f"network_{name}", f"{name} of each network.", "network")

    def count_event(self, kind: EventKind) -> None:
        """Count an event, if its kind is counted.

        Args:
            kind: Kind of the event.
        """
        if kind in self._events:
            self._events[kind].inc()

    def count_published(self, nbytes: int) -> None:
        """Count a published snapshot.

        Args:
            nbytes: Its bytes.
        """
        if nbytes > 0:
            self._published.inc(nbytes)

    def record_exchange(self, report: IntervalReport) -> None:
        """Count an exchange that ended, and the time of its phases.

        Args:
            report: Report of the interval after its exchange.
        """
        if report.outcome is not None:
            self._exchanges.inc(tags={"outcome": report.outcome.value})
        for phase in PHASES:
            if phase in report.seconds:
                self._seconds.observe(report.seconds[phase], tags={"phase": phase})

    def show(
        self,
        networks: Sequence[NetworkStatus],
        primary: Metric | None,
        *,
        wanted: int,
        num_intervals: int,
        snapshot_bytes: int,
    ) -> None:
        """Set the gauges to the present state of the population.

        Args:
            networks: Status of each network.
            primary: Primary metric of the task. None: not known yet.
            wanted: Networks that the population is to have.
            num_intervals: Intervals of the schedule.
            snapshot_bytes: Bytes of a snapshot.
        """
        counts = dict.fromkeys(self._states, 0)
        for network in networks:
            counts[network.state] = counts.get(network.state, 0) + 1
        self._states |= counts.keys()
        for state, count in counts.items():
            self._networks.set(count, tags={"state": state})
        self._wanted.set(wanted)
        self._scheduled.set(num_intervals)
        self._snapshot.set(snapshot_bytes)
        living = [network for network in networks if network.state in ("training", "stalled", "leaving", "done")]
        training = [network for network in living if network.state == "training"]
        self._speed.set(sum(network.examples_per_second or 0.0 for network in training))
        _set_each(
            self._intervals,
            [network.interval for network in living],
            {"least": min, "median": statistics.median, "most": max},
        )
        losses = [network.train_loss for network in living if network.train_loss is not None]
        _set_each(self._loss, losses, {"best": min, "mean": statistics.fmean, "worst": max})
        staleness = [network.staleness_intervals for network in living if network.staleness_intervals is not None]
        _set_each(self._staleness, staleness, {"median": statistics.median, "greatest": max})
        awaited = [network for network in living if network.state != "done"]
        _set_each(self._silent, [network.silent_seconds for network in awaited] or [0.0], {"greatest": max})
        _set_each(self._unwritten, [network.unwritten_seconds for network in living] or [0.0], {"greatest": max})
        if primary is not None:
            self._show_validation(living, primary)
        if self._each:
            self._show_each(networks, primary)

    def _show_validation(self, networks: Iterable[NetworkStatus], primary: Metric) -> None:
        """Set the gauge of the task's primary metric, if any network was evaluated."""
        values = [network.validation_metrics.get(primary.name) for network in networks]
        known = [value for value in values if value is not None]
        best, worst = (max, min) if primary.higher_is_better else (min, max)
        functions = {"best": best, "mean": statistics.fmean, "worst": worst}
        _set_each(self._validation, known, functions, metric=primary.name)

    def _show_each(self, networks: Iterable[NetworkStatus], primary: Metric | None) -> None:
        for network in networks:
            values = {
                "interval": network.interval,
                "train_loss": network.train_loss,
                "validation": network.validation_metrics.get(primary.name) if primary else None,
                "examples_per_second": network.examples_per_second,
                "staleness_intervals": network.staleness_intervals,
            }
            for name, value in values.items():
                if value is not None:
                    self._each[name].set(value, tags={"network": str(network.network_id)})

    def _gauge(self, name: str, description: str, *labels: str) -> Gauge:
        gauge = Gauge(f"inarch_{name}", description, ("run", *labels))
        gauge.set_default_tags(self._tags)
        return gauge

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        counter = Counter(f"inarch_{name}", description, ("run", *labels))
        counter.set_default_tags(self._tags)
        return counter


def _set_each(
    gauge: Gauge, values: Sequence[float], functions: Mapping[str, Callable[[Sequence[float]], float]], **tags: str
) -> None:
    """Set a gauge for each function of the values, with its name as the label `of`. Without values, do nothing."""
    for name, function in functions.items() if values else ():
        gauge.set(function(values), tags={"of": name, **tags})
