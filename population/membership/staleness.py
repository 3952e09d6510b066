"""How far a scion trails the network that takes it in, and what that does to its part."""

from __future__ import annotations

import math
from dataclasses import dataclass

from inarch.population.config import StalenessConfig
from inarch.population.state.snapshot import SnapshotInfo


@dataclass(frozen=True, kw_only=True)
class Staleness:
    """How old a scion is when it is grafted."""

    intervals: float
    """Intervals of training by which its weights trail the rootstock's; 0 when they are ahead."""
    steps: float
    """The same in steps."""
    seconds: float
    """Since it was made, at least 0."""


def staleness_limit(config: StalenessConfig, *, num_intervals: int) -> float:
    """Intervals above which a scion is refused: as configured, else a twentieth of the schedule, at least two."""
    return config.max_intervals if config.max_intervals is not None else max(2.0, num_intervals / 20)


def staleness_discount(intervals: float, config: StalenessConfig) -> float:
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


def discounted_alpha(alpha: float, intervals: float, config: StalenessConfig) -> float:
    """Alpha after age: it rises from `alpha` toward 1 as the scion's part fades."""
    left = staleness_discount(intervals, config)
    return alpha if left == 1.0 else 1.0 - (1.0 - alpha) * left


def is_too_stale(rootstock: SnapshotInfo, scion: SnapshotInfo, *, limit: float) -> bool:
    """Whether a scion trails by more than `limit` intervals. It is measured against no more training than the
    rootstock's place in the schedule: a straggler that has taken in what others trained, and trains on top of it, would
    otherwise outgrow those who have finished, and graft no more."""
    reached = min(rootstock.trained_intervals, rootstock.interval)
    return round(reached - scion.trained_intervals, 6) > limit


def _lag(rootstock: SnapshotInfo, scion: SnapshotInfo) -> tuple[float, float]:
    """How far a scion trails in training, in intervals and in steps; 0 where it is ahead. To a millionth: training is
    summed by parts, and what trails by the limit itself must not be refused for the last bit of a sum."""
    return (
        round(max(0.0, rootstock.trained_intervals - scion.trained_intervals), 6),
        round(max(0.0, rootstock.trained_steps - scion.trained_steps), 6),
    )


def staleness_of(rootstock: SnapshotInfo, scion: SnapshotInfo, *, now: float) -> Staleness:
    """A scion's age for a rootstock: how far it trails, and how long ago it was made."""
    intervals, steps = _lag(rootstock, scion)
    return Staleness(intervals=intervals, steps=steps, seconds=max(0.0, now - scion.created_at))
