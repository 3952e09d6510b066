"""How far a scion trails the network that takes it in, and what that does to its part."""

from __future__ import annotations

import math
from dataclasses import dataclass

from inarch.population.config import AgeConfig


@dataclass(frozen=True, kw_only=True)
class Age:
    """How old a scion is when it is grafted."""

    intervals: float
    """Intervals of training by which its weights trail the rootstock's; 0 when they are ahead."""
    steps: float
    """The same in steps."""
    seconds: float
    """Since it was made, at least 0."""


def age_limit(config: AgeConfig, *, num_intervals: int) -> float:
    """Intervals above which a scion is refused: as configured, else a twentieth of the schedule, at least two."""
    return config.limit_intervals if config.limit_intervals is not None else max(2.0, num_intervals / 20)


def freshness(intervals: float, config: AgeConfig) -> float:
    """What is left of a scion's part 1 - alpha at an age, in [0, 1]: 1 at age 0, never rising with age.

    Args:
        intervals: Age in intervals, at least 0.
        config: The policy and its rate.

    Source: polynomial, FedAsync (Xie et al. 2019, arXiv:1903.03934); exponential with cut-off, CGAD (arXiv:2605.09126).
    Neither paper's setting is this one; why the default is polynomial with rate 1.5: docs/decisions.md.
    """
    if config.policy == "polynomial":
        return (1.0 + intervals) ** -config.rate
    if config.policy == "exponential":
        return math.exp(-config.rate * intervals) if intervals <= config.cutoff_intervals else 0.0
    return 1.0


def aged(alpha: float, intervals: float, config: AgeConfig) -> float:
    """Alpha after age: it rises from `alpha` toward 1 as the scion's part fades."""
    left = freshness(intervals, config)
    return alpha if left == 1.0 else 1.0 - (1.0 - alpha) * left
