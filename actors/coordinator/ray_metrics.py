"""Metrics of a run for Ray's dashboard and Prometheus.

The coordinator exports them for the whole population. A label for each network would make a scrape too large in a large
population.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from ray.util.metrics import Counter, Gauge

from inarch.actors.messages import NetworkStatus
from inarch.population.evaluation.metrics import Metric


class RayMetrics:
    """Gauges and counters of one run. They appear as ray_inarch_*, ten seconds late."""

    def __init__(self, run: str) -> None:
        """Register the metrics.

        Args:
            run: Name of the run, the label of every metric.
        """
        tags = {"run": run}
        self._networks = Gauge("inarch_networks", "Members of the population by state.", ("run", "state"))
        self._speed = Gauge("inarch_examples_per_second", "Training speed of all networks together.", ("run",))
        self._validation = Gauge(
            "inarch_validation_metric",
            "Best and mean of the task's primary metric over the networks, on the validation data.",
            ("run", "metric", "of"),
        )
        self._age = Gauge(
            "inarch_scion_staleness_intervals", "Median staleness of the scions grafted last, in intervals.", ("run",)
        )
        self._exchanges = Counter("inarch_exchanges_total", "Exchanges by outcome.", ("run", "outcome"))
        for metric in (self._networks, self._speed, self._validation, self._age, self._exchanges):
            metric.set_default_tags(tags)
        self._states: set[str] = set()

    def exchanged(self, outcome: str) -> None:
        """Count an exchange that ended.

        Args:
            outcome: A value of `ExchangeOutcome`.
        """
        self._exchanges.inc(tags={"outcome": outcome})

    def show(self, networks: Iterable[NetworkStatus], primary: Metric | None) -> None:
        """Set the gauges to the present state of the population.

        Args:
            networks: Status of each network.
            primary: Primary metric of the task. None: not known yet.
        """
        networks = list(networks)
        counts = dict.fromkeys(self._states, 0)
        for network in networks:
            counts[network.state] = counts.get(network.state, 0) + 1
        self._states |= counts.keys()
        for state, count in counts.items():
            self._networks.set(count, tags={"state": state})
        training = [network.examples_per_second or 0.0 for network in networks if network.state == "training"]
        self._speed.set(sum(training))
        if primary is not None:
            self._show_validation(networks, primary)
        staleness = [network.staleness_intervals for network in networks if network.staleness_intervals is not None]
        if staleness:
            self._age.set(statistics.median(staleness))

    def _show_validation(self, networks: Iterable[NetworkStatus], primary: Metric) -> None:
        """Set the gauge of the task's primary metric, if any network was evaluated."""
        values = [network.validation_metrics.get(primary.name) for network in networks]
        known = [value for value in values if value is not None]
        if known:
            best = max(known, key=primary.score)
            self._validation.set(best, tags={"metric": primary.name, "of": "best"})
            self._validation.set(statistics.fmean(known), tags={"metric": primary.name, "of": "mean"})
