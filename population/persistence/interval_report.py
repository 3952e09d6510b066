"""The report of an interval: what the coordinator and the history learn of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.staleness import Staleness
from inarch.population.state.snapshot import SnapshotInfo


@dataclass(frozen=True, kw_only=True)
class IntervalReport:
    """Report of one interval. A first version is sent before the exchange, a complete one after it."""

    origin: SnapshotInfo
    num_intervals: int
    epoch: float
    learning_rate: float
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    validation_mean_average_precision: float | None
    images: int
    """Images trained on in this interval."""
    images_per_second: float
    seconds: Mapping[str, float]
    """Seconds of each phase: steps, evaluate, stage, publish, fetch, graft."""
    grafts: int
    """Grafts so far."""
    outcome: ExchangeOutcome | None = None
    """How the exchange ended; None before it."""
    scion: int | None = None
    """Id of the last donor."""
    staleness: Staleness | None = None
    """Staleness of that scion at the time of the graft."""

    def row(self, *, time: float) -> dict[str, Any]:
        """Return a row of the metrics table.

        Args:
            time: Seconds of the runtime's clock.
        """
        origin = self.origin
        return {
            "network": origin.network_id,
            "interval": origin.interval,
            "incarnation": origin.incarnation,
            "step": origin.step,
            **{f"seconds_{phase}": spent for phase, spent in self.seconds.items()},
            **{name: getattr(self, name) for name in _PLAIN_COLUMNS},
            "outcome": self.outcome.value if self.outcome else "",
            "time": time,
        }


_PLAIN_COLUMNS = (
    "epoch",
    "learning_rate",
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "validation_mean_average_precision",
    "images",
    "images_per_second",
    "grafts",
)
