"""How long a network trains, where its intervals end, and its learning rate at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from inarch.population.config import OptimizerConfig, ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A schedule in steps."""

    config: ScheduleConfig
    steps_per_epoch: int

    @property
    def num_steps(self) -> int:
        """Steps of the whole schedule."""
        return self.config.epochs * self.steps_per_epoch

    @property
    def interval_steps(self) -> int:
        """Steps between exchanges."""
        return self.config.interval_steps or self.config.interval_epochs * self.steps_per_epoch

    @property
    def num_intervals(self) -> int:
        """Intervals of the whole schedule; the last may be shorter."""
        return -(-self.num_steps // self.interval_steps)

    def end(self, interval: int) -> int:
        """Steps completed when `interval` intervals are."""
        return min(interval * self.interval_steps, self.num_steps)

    def evaluations(self, interval: int) -> int:
        """How many evaluations are due by the end of an interval."""
        if self.config.eval_every == "interval":
            return interval
        return self.end(interval) // self.steps_per_epoch

    def is_evaluated(self, interval: int) -> bool:
        """Whether an evaluation is due at the end of an interval (counted from 1)."""
        return interval == self.num_intervals or self.evaluations(interval) > self.evaluations(interval - 1)

    def is_saved(self, interval: int, *, every: int) -> bool:
        """Whether a checkpoint is due at the end of an interval: every so many evaluations, and at the last."""
        done, before = (self.evaluations(count) // every for count in (interval, interval - 1))
        return interval == self.num_intervals or done > before

    def factor(self, step: int) -> float:
        """What the initial learning rate is multiplied by at a step (counted from 0)."""
        warmup = self.config.warmup_epochs * self.steps_per_epoch
        if step < warmup:
            return (step + 1) / warmup
        if self.config.lr_decay == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, self.num_steps - warmup)))
        if self.config.lr_decay == "step":
            epoch = step // self.steps_per_epoch
            falls = (
                sum(epoch >= at for at in self.config.step_at)
                if self.config.step_at
                else epoch // self.config.step_epochs
            )
            return self.config.step_factor**falls
        return 1.0


def base_learning_rate(config: OptimizerConfig, *, network_id: int, size: int) -> float:
    """Initial learning rate of a network: newcomers take the founders' rates in turn.

    Args:
        config: same, spread or given rates.
        network_id: The network's id.
        size: Networks that the run was configured for.

    Source: spread, the public code of Meng et al. 2020: lr (1 + cos(pi (N - i) / N)) / 2 for i = 1..N.
    """
    place = network_id % size
    if config.learning_rates == "same":
        return config.learning_rate
    if config.learning_rates == "spread":
        return config.learning_rate * (1.0 + math.cos(math.pi * (size - place - 1) / size)) / 2.0
    return float(config.learning_rates[place])
