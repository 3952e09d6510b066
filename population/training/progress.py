"""How far a network's life has come, and what it tells of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from inarch.population.evaluation.protocol import Scores
from inarch.population.membership.staleness import Staleness
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.snapshot import SnapshotInfo
from inarch.population.training.schedule import Schedule


@dataclass(kw_only=True)
class Progress:
    """Counters of a life, saved with it."""

    learning_rate: float
    """Initial; a rule may change it."""
    interval: int = 0
    step: int = 0
    trained_intervals: float = 0.0
    trained_steps: float = 0.0
    grafts: int = 0
    best_score: float | None = None
    best_interval: int = 0
    score: float | None = None
    loss_sum: float = 0.0
    correct: int = 0
    images: int = 0
    seconds_steps: float = 0.0

    def complete_interval(self, schedule: Schedule) -> None:
        """Its steps are done."""
        begun = schedule.end(self.interval)
        self.interval += 1
        self.trained_intervals += (schedule.end(self.interval) - begun) / schedule.interval_steps

    def begin_interval(self) -> None:
        """Count anew what is counted by interval."""
        self.loss_sum, self.correct, self.images, self.seconds_steps = 0.0, 0, 0, 0.0

    def record_scores(self, scores: Scores | None) -> None:
        """Its newest score; where it was not judged, the one before."""
        self.score = scores.score if scores else self.score

    def update_best(self) -> bool:
        """Whether the newest score is the best so far, of equals the later, and if so note it as that."""
        if self.score is None or (self.best_score is not None and self.score < self.best_score):
            return False
        self.best_score, self.best_interval = self.score, self.interval
        return True

    def origin(self, *, network_id: int, incarnation: int, structure: str, created_at: float) -> SnapshotInfo:
        """Whose weights these are and how far they were trained, as they stand."""
        return SnapshotInfo(
            network_id=network_id,
            incarnation=incarnation,
            interval=self.interval,
            step=self.step,
            trained_intervals=self.trained_intervals,
            trained_steps=self.trained_steps,
            created_at=created_at,
            structure=structure,
            score=self.score,
            learning_rate=self.learning_rate,
        )

    def report(
        self,
        origin: SnapshotInfo,
        schedule: Schedule,
        *,
        seconds: Mapping[str, float],
        scores: Scores | None,
        scion: int | None,
        staleness: Staleness | None,
    ) -> IntervalReport:
        """What it tells of the interval: before the exchange."""
        images = max(1, self.images)
        return IntervalReport(
            origin=origin,
            num_intervals=schedule.num_intervals,
            epoch=self.step / schedule.steps_per_epoch,
            learning_rate=self.learning_rate * schedule.factor(max(0, self.step - 1)),
            train_loss=self.loss_sum / images,
            train_accuracy=self.correct / images,
            validation_loss=scores.loss if scores else None,
            validation_accuracy=scores.accuracy if scores else None,
            validation_mean_average_precision=scores.mean_average_precision if scores else None,
            images=self.images,
            images_per_second=self.images / max(self.seconds_steps, 1e-9),
            seconds=seconds,
            grafts=self.grafts,
            scion=scion,
            staleness=staleness,
        )
