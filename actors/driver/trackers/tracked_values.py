"""Values that trackers log: those of networks at their steps, and those of the population at its intervals."""

from __future__ import annotations

import collections
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from inarch.population.evaluation.metrics import Metric
from inarch.population.persistence.history_reader import RecordedInterval
from inarch.population.persistence.history_schemas import is_hyperparameter

PLAIN = ("learning_rate", "examples_per_second", "grafts", "epoch")
"""Columns of the table `metrics` that are logged under their own names, beside train_* and validation_*."""

TRAIN_LOSS = Metric(name="train_loss", higher_is_better=False)
"""The training loss, as a metric of the population."""

PRESENT = {"join": True, "restart": True, "leave": False, "failure": False, "loss": False}
"""Kinds of events, and whether their network is in the population afterwards."""


def network_values(interval: RecordedInterval) -> dict[str, float]:
    """Return what a tracker logs of an interval of a network.

    These are train_*, validation_*, learning_rate, examples_per_second, grafts, epoch, seconds/PHASE, and the network's
    own numbers by field of the configuration, such as optimizer.weight_decay. Of a graft they are age_intervals, scion,
    alpha/LAYER and information/LAYER. With several donors, alpha is their mean, age the greatest, and scion is left
    out.

    Args:
        interval: The interval.
    """
    row = interval.row
    values = {name: row.get(name) for name in (*PLAIN, *row) if name in PLAIN or name.startswith(("train_", "valid"))}
    values |= {name: row[name] for name in row if is_hyperparameter(name)}
    values |= {f"seconds/{name.removeprefix('seconds_')}": row[name] for name in row if name.startswith("seconds_")}
    alphas: dict[str, list[float]] = {}
    for graft in interval.grafts:
        alphas.setdefault(graft["layer"], []).append(graft["alpha"])
        values[f"information/{graft['layer']}"] = graft["own_information"]
    values |= {f"alpha/{layer}": statistics.fmean(kept) for layer, kept in alphas.items()}
    donors = {graft["scion"] for graft in interval.grafts}
    if len(donors) == 1:
        values["scion"] = donors.pop()
    ages = [graft["staleness_intervals"] for graft in interval.grafts if graft["staleness_intervals"] is not None]
    if ages:
        values["age_intervals"] = max(ages)
    return {name: float(value) for name, value in values.items() if value is not None}


class PopulationValues:
    """Values of the population, from the newest interval of each network that is in it.

    The step of the population is the median of these networks' intervals. Intervals are added as they are committed, so
    the values at a step are from what was committed by then.
    """

    def __init__(self, metric: Metric | None) -> None:
        """Create values of a population without intervals.

        Args:
            metric: Primary metric of the task. None if it has none.
        """
        self._metric = metric
        self._newest: dict[int, dict[str, Any]] = {}
        self._outcomes: collections.Counter[str] = collections.Counter()
        self._is_present: dict[int, bool] = {}
        self._kinds: collections.Counter[str] = collections.Counter()
        self._events_until = -math.inf
        self._interval = 0

    def add(
        self, interval: RecordedInterval, events: Sequence[Mapping[str, Any]]
    ) -> tuple[int, dict[str, float]] | None:
        """Add an interval. Return the population's step and values if the step has grown, otherwise None.

        The values are NAME/best, NAME/mean and NAME/worst of train_loss and of the primary validation metric, size,
        and counts since the start: exchanges/OUTCOME, losses and restarts.

        Args:
            interval: The next interval, in the order of time.
            events: Events of the run's record of members, in the order of time.
        """
        row = interval.row
        columns = {TRAIN_LOSS.name: row["train_loss"]}
        if self._metric is not None:
            columns[self._metric.name] = row.get(f"validation_{self._metric.name}")
        newest = self._newest.setdefault(interval.network_id, {})
        newest |= {name: value for name, value in columns.items() if value is not None}
        newest["interval"] = interval.interval
        self._outcomes[row["outcome"]] += 1
        self._follow(events, until=row["time"])
        median = int(statistics.median_low([known["interval"] for known in self._present()]))
        if median <= self._interval:
            return None
        self._interval = median
        return median, self._values()

    def _follow(self, events: Sequence[Mapping[str, Any]], *, until: float) -> None:
        """Apply the events up to a time to the set of networks in the population."""
        for event in events:
            if self._events_until < event["seconds"] <= until:
                self._kinds[event["kind"]] += 1
                if event["kind"] in PRESENT:
                    self._is_present[event["network_id"]] = PRESENT[event["kind"]]
        self._events_until = max(self._events_until, until)

    def _present(self) -> list[dict[str, Any]]:
        """Return the newest values of the networks in the population, or of all if none is left."""
        present = [newest for network, newest in self._newest.items() if self._is_present.get(network, True)]
        return present or list(self._newest.values())

    def _values(self) -> dict[str, float]:
        values: dict[str, float] = {f"exchanges/{name}": count for name, count in self._outcomes.items() if name}
        values |= {"losses": self._kinds["loss"], "restarts": self._kinds["restart"]}
        members = self._newest.keys() | self._is_present.keys()
        values["size"] = sum(self._is_present.get(network, True) for network in members)
        for metric in (TRAIN_LOSS, *([] if self._metric is None else [self._metric])):
            values |= self._spread(metric)
        return {name: float(value) for name, value in values.items()}

    def _spread(self, metric: Metric) -> dict[str, float]:
        """Return the best, the mean and the worst value of a metric. Networks whose value is NaN are left out."""
        name = metric.name
        known = [newest[name] for newest in self._present() if not math.isnan(newest.get(name, math.nan))]
        if not known:
            return {}
        known.sort(key=metric.score)
        return {f"{name}/best": known[-1], f"{name}/mean": statistics.fmean(known), f"{name}/worst": known[0]}


def result_values(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a run's result, such as result/ensemble/METRIC, result/train/loss and result/agreement.

    Of the regime they are result/decay_time, the mean of the networks' least and greatest, and result/total_pull.

    Args:
        result: Content of result.json.
    """
    values: dict[str, Any] = {}
    for kind in ("mean", "ensemble", "soup", "greedy_soup", "train"):
        values |= {f"result/{kind}/{name}": value for name, value in (result.get(kind) or {}).items()}
    best = next((row for row in result["networks"] if row["network"] == result.get("best")), None)
    if best is not None:
        values |= {f"result/best/{name}": value for name, value in (best.get("best") or {}).items()}
        values["result/best_network"] = best["network"]
    values |= {f"result/{name}": result.get(name) for name in ("agreement", "cosine", "seconds")}
    regime = result.get("regime")
    if regime is not None:
        values["result/decay_time"] = statistics.fmean(regime["decay_times"])
        values["result/total_pull"] = regime["total_pull"]
    return {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}
