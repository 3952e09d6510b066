"""What a training loop of the caller's own reports of an interval."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping

from torch import Tensor

from inarch.actors.guest.loop_optimizer import LoopOptimizer
from inarch.population.exchange import ExchangeResult, graft_rows
from inarch.population.exchange.participant import Participant
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.snapshot_info import SnapshotInfo


class GuestReport:
    """Collects the numbers of one interval."""

    def __init__(self, metric: str) -> None:
        """Begin the first interval.

        Args:
            metric: Name of the validation metric that the loop reports.
        """
        self._metric = metric
        self._score: float | None = None
        self._loss_sum: float | Tensor = 0.0
        self._num_losses, self._examples = 0, 0
        self._begun = time.monotonic()

    def add(self, *, score: float | None, loss: float | Tensor | None, examples: int | None) -> None:
        """Add numbers, as `Member.tell`."""
        if score is not None:
            self._score = float(score)
        if loss is not None:
            value = loss.detach() if isinstance(loss, Tensor) else float(loss)
            self._loss_sum = value + self._loss_sum if self._num_losses else value
            self._num_losses += 1
        self._examples += examples or 0

    def before_exchange(
        self,
        own: SnapshotInfo,
        participant: Participant,
        optimizer: LoopOptimizer | None,
        *,
        num_intervals: int,
        grafts: int,
    ) -> IntervalReport:
        """Return the report of the interval before its exchange, and begin the next interval.

        Args:
            own: Identity and training progress of the member.
            participant: Its part in the exchange.
            optimizer: The loop's optimizer. None if it is not known.
            num_intervals: Intervals of the schedule. 0 if its length is not known.
            grafts: Grafts so far.
        """
        seconds = time.monotonic() - self._begun
        loss = float(self._loss_sum) / self._num_losses if self._num_losses else None
        report = IntervalReport(
            origin=own,
            num_intervals=num_intervals,
            epoch=None,
            learning_rate=optimizer.rate if optimizer else 0.0,
            train_loss=None if loss is None else finite_or_none(loss),
            train_metrics={},
            validation_metrics={self._metric: None if self._score is None else finite_or_none(self._score)},
            examples=self._examples or None,
            examples_per_second=self._examples / seconds if self._examples and seconds > 0 else None,
            seconds={"steps": seconds},
            grafts=grafts,
            scion=participant.last_scion,
            staleness=participant.last_staleness,
        )
        self._score, self._loss_sum, self._num_losses, self._examples = None, 0.0, 0, 0
        self._begun = time.monotonic()
        return report

    def after_exchange(
        self,
        report: IntervalReport,
        own: SnapshotInfo,
        participant: Participant,
        result: ExchangeResult,
        seconds: Mapping[str, float],
        *,
        grafts: int,
    ) -> IntervalReport:
        """Return the complete report of an interval, with the rows of its grafts.

        Args:
            report: The report before the exchange.
            own: Identity and training progress of the member before the exchange.
            participant: Its part in the exchange.
            result: How the exchange ended.
            seconds: Seconds of each phase of the exchange.
            grafts: Grafts so far, this one included.
        """
        self._begun = time.monotonic()
        return dataclasses.replace(
            report,
            seconds={**report.seconds, **seconds},
            grafts=grafts,
            outcome=result.outcome,
            scion=participant.last_scion,
            staleness=participant.last_staleness,
            graft_rows=tuple(graft_rows(own, result.contributions)),
        )


def finite_or_none(value: float) -> float | None:
    """Return a number, or None if it is NaN or infinite.

    Args:
        value: The number.
    """
    return value if math.isfinite(value) else None
