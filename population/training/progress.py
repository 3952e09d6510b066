"""Training progress of one network: its counters, and its reports of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from inarch.population.config.per_network import LEARNING_RATE
from inarch.population.evaluation.metrics import Scores
from inarch.population.exchange import Contribution, training_behind
from inarch.population.exchange.participant import Participant
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.hyperparameters import Hyperparameters
from inarch.population.state.snapshot import Layout
from inarch.population.state.snapshot_info import SnapshotInfo
from inarch.population.training.schedule import Schedule


@dataclass(kw_only=True)
class Progress:
    """Counters of one network's training. Each checkpoint saves them."""

    hyperparameters: Hyperparameters = field(default_factory=dict[str, float])
    """The network's own numbers by field of the configuration. An exchange rule may change them."""
    interval: int = 0
    """Intervals of the schedule completed."""
    step: int = 0
    """Steps of the schedule completed."""
    trained_intervals: float = 0.0
    """Intervals of training behind the weights, with the scions' training by its weight."""
    trained_steps: float = 0.0
    """The same in steps."""
    grafts: int = 0
    """Exchanges that changed the network, or gave it peers."""
    best_score: float | None = None
    """Best validation score so far. None before the first evaluation, and without validation data."""
    best_interval: int = 0
    """Interval of the best score."""
    score: float | None = None
    """Newest validation score. An exchange rule may set it to the score of the network that it copied."""
    loss_sum: float = 0.0
    """Sum of the training loss over the examples of this interval."""
    metric_sums: Mapping[str, float] = field(default_factory=dict[str, float])
    """Sums of the task's training metrics over the examples of this interval, by name."""
    examples: int = 0
    """Examples trained on in this interval."""
    seconds_steps: float = 0.0
    """Seconds of the steps of this interval, on the runtime's clock."""

    @property
    def learning_rate(self) -> float:
        """Initial learning rate. 0 if it is not known."""
        return self.hyperparameters.get(LEARNING_RATE, 0.0)

    def complete_interval(self, trained: float = 1.0) -> None:
        """Count an interval as completed when its steps are.

        Args:
            trained: Intervals of training that it adds. Less than 1 for an interval with fewer steps.
        """
        self.interval += 1
        self.trained_intervals += trained

    def add_grafts(self, own: SnapshotInfo, contributions: Sequence[Contribution]) -> None:
        """Count an exchange that changed the network, and the scions' training.

        Args:
            own: Progress of the network before the exchange.
            contributions: Contribution of each source.
        """
        self.trained_intervals, self.trained_steps = training_behind(own, contributions)
        self.grafts += 1

    def begin_interval(self) -> None:
        """Set the counters of an interval to zero."""
        self.loss_sum, self.metric_sums, self.examples, self.seconds_steps = 0.0, {}, 0, 0.0

    def add_steps(self, loss_sum: float, metric_sums: Mapping[str, float], seconds: float) -> None:
        """Add steps of this interval. Their examples are counted already.

        Args:
            loss_sum: Sum of the loss over the examples.
            metric_sums: Sums of the task's training metrics over the examples, by name.
            seconds: Seconds of the steps.
        """
        self.loss_sum += loss_sum
        added = {name: self.metric_sums.get(name, 0.0) + value for name, value in metric_sums.items()}
        self.metric_sums = {**self.metric_sums, **added}
        self.seconds_steps += seconds

    def record_scores(self, scores: Scores | None) -> None:
        """Record the newest validation score.

        Args:
            scores: Scores of the evaluation. None: not evaluated, and the score before stays. A score that is not
                finite counts as none, because the network cannot be ranked by it.
        """
        if scores is not None:
            self.score = scores.score if math.isfinite(scores.score) else None

    def update_best(self) -> bool:
        """Record the newest score as the best if no score was better, and return whether it is.

        Of equal scores, the later is the best, because its network has trained longer.
        """
        if self.score is None or (self.best_score is not None and self.score < self.best_score):
            return False
        self.best_score, self.best_interval = self.score, self.interval
        return True

    def origin(self, *, network_id: int, incarnation: int, layout: Layout, created_at: float) -> SnapshotInfo:
        """Return identity and training progress of the weights in their present state.

        Args:
            network_id: Id of the network.
            incarnation: Number of its process, from 1.
            layout: Layout of its snapshots.
            created_at: Seconds of the runtime's clock.
        """
        return SnapshotInfo(
            network_id=network_id,
            incarnation=incarnation,
            interval=self.interval,
            step=self.step,
            trained_intervals=self.trained_intervals,
            trained_steps=self.trained_steps,
            created_at=created_at,
            structure=layout.fingerprint,
            is_channels_last=layout.channels_last,
            score=self.score,
            hyperparameters=self.hyperparameters,
        )

    def report(
        self,
        origin: SnapshotInfo,
        schedule: Schedule,
        participant: Participant,
        *,
        seconds: Mapping[str, float],
        scores: Mapping[str, float | None],
    ) -> IntervalReport:
        """Return the report of an interval before its exchange.

        Args:
            origin: Identity and training progress of the network.
            schedule: Schedule of the network.
            participant: The network's part in the exchange.
            seconds: Seconds of each phase so far, by the phase's name.
            scores: Metrics of the interval's evaluation by name. None if it was not evaluated.
        """
        examples = max(1, self.examples)
        return IntervalReport(
            origin=origin,
            num_intervals=schedule.num_intervals,
            epoch=self.step / schedule.steps_per_epoch,
            learning_rate=self.learning_rate * schedule.factor(max(0, self.step - 1)),
            train_loss=self.loss_sum / examples,
            train_metrics={name: value / examples for name, value in self.metric_sums.items()},
            validation_metrics=scores,
            examples=self.examples,
            examples_per_second=self.examples / max(self.seconds_steps, 1e-9),
            seconds=seconds,
            grafts=self.grafts,
            scion=participant.last_scion,
            staleness=participant.last_staleness,
        )
