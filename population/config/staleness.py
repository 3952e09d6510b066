"""What the staleness of a scion does, and when it is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from inarch.population.config.checks import one_of, require


@dataclass(frozen=True, kw_only=True)
class StalenessConfig:
    """What the age of a scion does to its part, and when it is too old. Policy, rate and cut-off are for rule graft;
    the limit is for every rule."""

    policy: Literal["none", "polynomial", "exponential"] = "polynomial"
    """How the scion's part 1 - alpha falls with its age in intervals: not, as (1 + age)^-rate, or as exp(-rate age)."""
    rate: float = 1.5
    """At least 0. With 1.5, polynomial, networks that see each other late come together soonest (docs/decisions.md)."""
    cutoff_intervals: float = 8.0
    """exponential: above this age the scion has no part."""
    max_intervals: float | None = None
    """A scion that trails by more is refused; None: a twentieth of the schedule, at least two intervals."""
    compensation_intervals: int | None = None
    """Intervals by which a scion may trail to be brought forward by what its rootstock has trained since, as in delayed
    averaging: the exchange then costs no training. One that trails by more is brought forward by so many. It takes
    as many copies of the weights. 0: scions are taken as they are. For rule graft with external scions; None: 2 for
    these in mode async, if momentum is not blended."""

    def __post_init__(self) -> None:
        is_known = self.compensation_intervals is None or self.compensation_intervals >= 0
        require(is_known, "staleness.compensation_intervals", "be at least 0", self.compensation_intervals)
        one_of(self.policy, Literal["none", "polynomial", "exponential"], "staleness.policy")
        require(self.rate >= 0 and math.isfinite(self.rate), "staleness.rate", "be finite and at least 0", self.rate)
        require(self.cutoff_intervals >= 0, "staleness.cutoff_intervals", "be at least 0", self.cutoff_intervals)
        limit = self.max_intervals
        require(limit is None or limit >= 0, "staleness.max_intervals", "be at least 0", limit)
