"""The schedule of a network: its length, the ends of its intervals, and its learning rate at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from inarch.population.config import ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The configured schedule, counted in steps."""

    config: ScheduleConfig
    """The schedule in epochs."""
    steps_per_epoch: int
    """Steps of one epoch, at least 1."""

    @property
    def num_steps(self) -> int:
        """Steps of the whole schedule."""
        return self.config.epochs * self.steps_per_epoch

    @property
    def interval_steps(self) -> int:
        """Steps between two exchanges."""
        return self.config.interval_steps or self.config.interval_epochs * self.steps_per_epoch

    @property
    def num_intervals(self) -> int:
        """Intervals of the whole schedule. The last may be shorter."""
        return -(-self.num_steps // self.interval_steps)

    def end(self, interval: int) -> int:
        """Return the number of steps after which an interval ends.

        Args:
            interval: Intervals completed, at least 0.
        """
        return min(interval * self.interval_steps, self.num_steps)

    def share(self, interval: int) -> float:
        """Return the steps of an interval as a share of a whole interval's. Less than 1 for a shorter last interval.

        Args:
            interval: Number of the interval, from 1.
        """
        return (self.end(interval) - self.end(interval - 1)) / self.interval_steps

    def evaluations(self, interval: int) -> int:
        """Return how many evaluations are due by the end of an interval.

        Args:
            interval: Intervals completed, at least 0.
        """
        if self.config.eval_every == "interval":
            return interval
        return self.end(interval) // self.steps_per_epoch

    def is_evaluated(self, interval: int) -> bool:
        """Return whether an evaluation is due at the end of an interval.

        Args:
            interval: Number of the interval, from 1. The last is always evaluated.
        """
        return interval == self.num_intervals or self.evaluations(interval) > self.evaluations(interval - 1)

    def is_saved(self, interval: int, *, every: int) -> bool:
        """Return whether a checkpoint is due at the end of an interval.

        Args:
            interval: Number of the interval, from 1. The last is always saved.
            every: Evaluations from one checkpoint to the next, at least 1.
        """
        due, due_before = (self.evaluations(count) // every for count in (interval, interval - 1))
        return interval == self.num_intervals or due > due_before

    def factor(self, step: int) -> float:
        """Return the factor that multiplies the initial learning rate at a step.

        Args:
            step: Number of the step, from 0.

        Returns:
            A factor in [0, 1].
        """
        warmup_steps = self.config.warmup_epochs * self.steps_per_epoch
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if self.config.lr_decay == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * (step - warmup_steps) / max(1, self.num_steps - warmup_steps)))
        if self.config.lr_decay == "step":
            epoch = step // self.steps_per_epoch
            num_decays = (
                sum(epoch >= decay_epoch for decay_epoch in self.config.step_at)
                if self.config.step_at
                else epoch // self.config.step_epochs
            )
            return self.config.step_factor**num_decays
        return 1.0
