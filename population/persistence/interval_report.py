"""The report of an interval, for the coordinator and the history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.staleness import Staleness
from inarch.population.state.snapshot_info import SnapshotInfo


@dataclass(frozen=True, kw_only=True)
class IntervalReport:
    """Report of one interval. A first version is sent before the exchange, a complete one after it."""

    origin: SnapshotInfo
    """Identity and training progress of the network."""
    num_intervals: int
    """Intervals of the schedule. 0 if its length is not known."""
    epoch: float | None
    """Epochs completed. None if they are not counted."""
    learning_rate: float
    """Learning rate of the interval's last step."""
    train_loss: float | None
    """Mean training loss of the interval's examples. None if it is not known."""
    train_metrics: Mapping[str, float]
    """Means over the interval's training examples of the metrics that the task's loss gives, by name."""
    validation_metrics: Mapping[str, float | None]
    """Metrics of the validation data by name. None if the interval was not evaluated."""
    examples: int | None
    """Examples trained on in this interval. None if they are not counted."""
    examples_per_second: float | None
    """Training speed during the steps. None if examples are not counted."""
    seconds: Mapping[str, float]
    """Seconds of each phase: steps, evaluate, stage, publish, fetch, graft, commit. The row of an interval is part of
    its own commit. `commit` is therefore that of the interval before, in this process."""
    grafts: int
    """Grafts so far."""
    outcome: ExchangeOutcome | None = None
    """How the exchange ended. None before it."""
    scion: int | None = None
    """Id of the last donor. None before the first graft."""
    staleness: Staleness | None = None
    """Staleness of that scion at the time of the graft."""
    storage_failure: str = ""
    """Why the network's newest checkpoint could not be written so far. Empty: storage works."""
    unwritten_seconds: float = 0.0
    """Age of the oldest rows and weights that are not written, while storage fails. 0 otherwise."""
    graft_rows: tuple[Mapping[str, Any], ...] = ()
    """Rows of the history's table of grafts. Only guests send them, because a network commits its own rows."""

    @property
    def is_evaluated(self) -> bool:
        """Whether the interval was evaluated."""
        return any(value is not None for value in self.validation_metrics.values())

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
            **{f"seconds_{phase}": seconds for phase, seconds in self.seconds.items()},
            **{f"train_{name}": value for name, value in self.train_metrics.items()},
            **{f"validation_{name}": value for name, value in self.validation_metrics.items()},
            **origin.hyperparameters,
            **{name: getattr(self, name) for name in _PLAIN_COLUMNS},
            "outcome": self.outcome.value if self.outcome else "",
            "time": time,
        }


_PLAIN_COLUMNS = (
    "epoch",
    "learning_rate",
    "train_loss",
    "examples",
    "examples_per_second",
    "grafts",
)
