"""The result of a run, as the driver gets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inarch.population.evaluation.deployment import Deployment, deployment_of
from inarch.population.evaluation.metrics import Metrics


@dataclass(frozen=True, kw_only=True)
class NetworkResult:
    """How one network ended, and its metrics."""

    network_id: int
    ended: str
    """State at the end: done, retired, stopped, failed or lost."""
    interval: int
    """Intervals completed."""
    best_interval: int | None
    """Interval after which the weights of `best` were taken. None without a checkpoint."""
    validation_score: float | None
    """Validation score of the weights of `best`. None without validation data."""
    last_validation_score: float | None
    """Validation score of the last weights. None without validation data."""
    train: Metrics | None
    """Loss and metrics of the last epoch's training examples. None if they were not recorded."""
    grafts: int
    """Number of grafts."""
    reason: str
    """Why the network failed. Empty if it did not."""
    best: Metrics | None
    """Metrics of the weights that `checkpoint.weights` chose. None if they were not evaluated."""
    last: Metrics | None
    """Metrics of the last weights."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Result of a run. Metrics are those of the test data, or of the validation data if there are no test data."""

    path: str
    """Path or URI of the run's folder."""
    table: Mapping[str, Any] | None
    """Content of result.json. None if the run was stopped before its end."""
    failure: str = ""
    """Why the run failed. Empty if it did not."""

    @property
    def is_complete(self) -> bool:
        """Whether every network completed its schedule or left on request. False after a failure or a stop."""
        return self.table is not None and all(network.ended in ("done", "retired") for network in self.networks)

    @property
    def networks(self) -> tuple[NetworkResult, ...]:
        """The networks in order of their ids. Empty if the run was stopped."""
        rows = self.table["networks"] if self.table is not None else ()
        return tuple(_network_result(row) for row in rows)

    @property
    def mean(self) -> Metrics | None:
        """Mean over the networks, with their chosen weights."""
        return self._metrics("mean")

    @property
    def ensemble(self) -> Metrics | None:
        """Metrics of the ensemble of the networks, with their chosen weights."""
        return self._metrics("ensemble")

    @property
    def soup(self) -> Metrics | None:
        """Metrics of the mean of the networks' chosen weights."""
        return self._metrics("soup")

    @property
    def greedy_soup(self) -> Metrics | None:
        """Metrics of the greedy soup. None without validation data."""
        return self._metrics("greedy_soup")

    @property
    def best_network(self) -> NetworkResult | None:
        """The network with the best validation score."""
        best = self.table.get("best") if self.table is not None else None
        return next((network for network in self.networks if network.network_id == best), None)

    @property
    def deploy(self) -> Deployment | None:
        """What to deploy, and what the alternatives would give and cost. None if the run was stopped."""
        return deployment_of(self.table) if self.table is not None else None

    @property
    def train(self) -> Metrics | None:
        """Mean over networks of the loss and the metrics of the last epoch's training examples."""
        return self._metrics("train")

    @property
    def seconds(self) -> float | None:
        """Seconds of training."""
        return self.table["seconds"] if self.table is not None else None

    def _metrics(self, name: str) -> Metrics | None:
        values = self.table.get(name) if self.table is not None else None
        return Metrics(values) if values else None


def _network_result(row: Mapping[str, Any]) -> NetworkResult:
    return NetworkResult(
        network_id=row["network"],
        ended=row["ended"],
        interval=row["interval"],
        best_interval=row["best_interval"],
        validation_score=row["validation_score"],
        last_validation_score=row.get("last_validation_score"),
        train=Metrics(row["train"]) if row.get("train") else None,
        grafts=row["grafts"],
        reason=row.get("reason", ""),
        best=Metrics(row["best"]) if row.get("best") else None,
        last=Metrics(row["last"]) if row.get("last") else None,
    )
