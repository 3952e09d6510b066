"""What a network tells of an interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inarch.population.membership.staleness import Staleness
from inarch.population.state.snapshot import SnapshotInfo

GRAFTED, KEPT, OFF = "grafted", "kept", "off"
"""Outcomes of an interval's exchange beside the refusals: something was taken in, the rule left the network as it was,
there is no exchange."""


@dataclass(frozen=True, kw_only=True)
class IntervalReport:
    """What a network tells of an interval: before the exchange when it is published, after it when it is committed."""

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
    """Trained on in this interval."""
    images_per_second: float
    seconds: Mapping[str, float]
    """By phase: steps, evaluate, freeze, publish, pull, graft."""
    grafts: int
    """Taken so far."""
    outcome: str = ""
    """grafted, kept, off, or a refusal's name; empty before the exchange."""
    scion: int | None = None
    """The network that was last grafted from."""
    age: Staleness | None = None
    """Of the last scion, when it was grafted."""

    def row(self, *, time: float) -> dict[str, Any]:
        """A row of the metrics table."""
        origin = self.origin
        return {
            "network": origin.network_id,
            "interval": origin.interval,
            "incarnation": origin.incarnation,
            "step": origin.step,
            **{f"seconds_{phase}": spent for phase, spent in self.seconds.items()},
            **{name: getattr(self, name) for name in _PLAIN_COLUMNS},
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
    "outcome",
    "grafts",
)
