"""How far a scion is behind the network that grafts it, and what that does to its weight."""

from __future__ import annotations

import math
from dataclasses import dataclass

from inarch.population.config import StalenessConfig
from inarch.population.state.snapshot_info import SnapshotInfo


@dataclass(frozen=True, kw_only=True)
class Staleness:
    """How far a scion is behind the rootstock at the time of the graft."""

    intervals: float
    """Intervals of training that the scion is behind, or 0 if it is ahead."""
    steps: float
    """The same in steps."""
    seconds: float
    """Age of the snapshot, at least 0."""


def staleness_limit(config: StalenessConfig, *, num_intervals: int) -> float:
    """Return the staleness above which a scion is refused.

    Args:
        config: The limit, if it is set.
        num_intervals: Intervals of the schedule. Without a set limit, it is a twentieth of them, but at least 2.

    Returns:
        Intervals.
    """
    return config.max_intervals if config.max_intervals is not None else max(2.0, num_intervals / 20)


def staleness_discount(intervals: float, config: StalenessConfig) -> float:
    """Return the factor by which staleness lowers a scion's weight 1 - alpha.

    Args:
        intervals: Staleness in intervals, at least 0.
        config: The policy and its rate.

    Returns:
        A factor in [0, 1]: 1 for a fresh scion, and never larger for a staler one.

    Source: polynomial, FedAsync (Xie et al. 2019, arXiv:1903.03934), and exponential with cut-off, CGAD
    (arXiv:2605.09126). Both papers have another setting. Decision 0035 in docs says why the default is polynomial with
    rate 1.5.
    """
    if config.policy == "polynomial":
        return (1.0 + intervals) ** -config.rate
    if config.policy == "exponential":
        return math.exp(-config.rate * intervals) if intervals <= config.cutoff_intervals else 0.0
    return 1.0


def discounted_alpha(alpha: float, intervals: float, config: StalenessConfig) -> float:
    """Return alpha after the discount: it rises toward 1 with staleness.

    Args:
        alpha: Alpha for a fresh scion, in [0, 1].
        intervals: Staleness in intervals, at least 0.
        config: The policy and its rate.
    """
    discount = staleness_discount(intervals, config)
    return alpha if discount == 1.0 else 1.0 - (1.0 - alpha) * discount


def is_too_stale(rootstock: SnapshotInfo, scion: SnapshotInfo, *, limit: float) -> bool:
    """Return whether a scion is more than `limit` intervals behind.

    The rootstock's training counts up to its position in the schedule. A straggler that has grafted from networks
    ahead of it would otherwise count as trained further than networks that have finished, and could not graft any
    more.

    Args:
        rootstock: Progress of the rootstock.
        scion: Progress of the scion.
        limit: Intervals.
    """
    trained = min(rootstock.trained_intervals, rootstock.interval)
    return round(trained - scion.trained_intervals, 6) > limit


def staleness_of(rootstock: SnapshotInfo, scion: SnapshotInfo, *, now: float) -> Staleness:
    """Return a scion's staleness for a rootstock.

    Differences are rounded to a millionth, because training is summed in parts: a scion exactly at the limit must not
    be refused for the last bit of a sum.

    Args:
        rootstock: Progress of the rootstock.
        scion: Progress of the scion.
        now: Time on the clock that dated the scion, in seconds.
    """
    return Staleness(
        intervals=round(max(0.0, rootstock.trained_intervals - scion.trained_intervals), 6),
        steps=round(max(0.0, rootstock.trained_steps - scion.trained_steps), 6),
        seconds=max(0.0, now - scion.created_at),
    )
