"""The run as gauges and counters on Ray's dashboard and in Prometheus. One coordinator exports them, never a network:
a label for each network would outgrow a scrape in a large population."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from ray.util.metrics import Counter, Gauge

from inarch.actors.messages import NetworkStatus


class RayMetrics:
    """Metrics of one run; they appear as ray_inarch_*, ten seconds late."""

    def __init__(self, run: str) -> None:
        tags = {"run": run}
        self._networks = Gauge("inarch_networks", "Members of the population by state.", ("run", "state"))
        self._speed = Gauge("inarch_images_per_second", "Training speed of all networks together.", ("run",))
        self._accuracy = Gauge("inarch_validation_accuracy", "Over the networks.", ("run", "of"))
        self._age = Gauge("inarch_scion_age_intervals", "Median age of the scions last grafted.", ("run",))
        self._exchanges = Counter("inarch_exchanges_total", "Exchanges by outcome.", ("run", "outcome"))
        for metric in (self._networks, self._speed, self._accuracy, self._age, self._exchanges):
            metric.set_default_tags(tags)
        self._states: set[str] = set()

    def exchanged(self, outcome: str) -> None:
        """An interval's exchange ended."""
        self._exchanges.inc(tags={"outcome": outcome})

    def show(self, networks: Iterable[NetworkStatus]) -> None:
        """Set the gauges to the population as it stands."""
        networks = list(networks)
        counts = dict.fromkeys(self._states, 0)
        for network in networks:
            counts[network.state] = counts.get(network.state, 0) + 1
        self._states |= counts.keys()
        for state, count in counts.items():
            self._networks.set(count, tags={"state": state})
        training = [network.images_per_second or 0.0 for network in networks if network.state == "training"]
        self._speed.set(sum(training))
        accuracies = [n.validation_accuracy for n in networks if n.validation_accuracy is not None]
        if accuracies:
            self._accuracy.set(max(accuracies), tags={"of": "best"})
            self._accuracy.set(statistics.fmean(accuracies), tags={"of": "mean"})
        ages = [network.staleness_intervals for network in networks if network.staleness_intervals is not None]
        if ages:
            self._age.set(statistics.median(ages))
