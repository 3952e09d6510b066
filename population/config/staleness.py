"""What the staleness of a scion does, and when a scion is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from inarch.population.config.checks import check_types, one_of, require


@dataclass(frozen=True, kw_only=True)
class StalenessConfig:
    """How the staleness of a scion lowers its weight, and when a scion is refused.

    Staleness is the number of intervals of training by which a scion is behind the rootstock. Policy, rate and cut-off
    are for grafting. The limit is for every rule.
    """

    policy: Literal["none", "polynomial", "exponential"] = "polynomial"
    """How the scion's weight 1 - alpha falls with its staleness s: not at all, as (1 + s)^-rate, or as
    exp(-rate s)."""
    rate: float = 1.5
    """Rate of the policy, at least 0. The default made populations with slow members agree soonest
    (docs/development/decisions, 0035)."""
    cutoff_intervals: float = 8.0
    """exponential only: above this staleness the scion has no weight."""
    max_intervals: float | None = None
    """A scion that is further behind is refused. None: a twentieth of the schedule, but at least two intervals."""
    compensation_intervals: int | None = None
    """Delay compensation: add the rootstock's own updates since the scion was published, over at most this many
    intervals. Costs one copy of the weights per interval. 0 disables it. For rule graft with external scions only.
    None: 2 in mode async, unless momentum is blended."""

    def __post_init__(self) -> None:
        check_types(self, "staleness.")
        is_known = self.compensation_intervals is None or self.compensation_intervals >= 0
        require(is_known, "staleness.compensation_intervals", "be at least 0", self.compensation_intervals)
        one_of(self.policy, Literal["none", "polynomial", "exponential"], "staleness.policy")
        require(self.rate >= 0 and math.isfinite(self.rate), "staleness.rate", "be finite and at least 0", self.rate)
        require(self.cutoff_intervals >= 0, "staleness.cutoff_intervals", "be at least 0", self.cutoff_intervals)
        limit = self.max_intervals
        require(limit is None or limit >= 0, "staleness.max_intervals", "be at least 0", limit)
