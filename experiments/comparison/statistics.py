"""Means over seeds with intervals, and differences paired by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean and half of its confidence interval's length."""

    mean: float
    half: float
    """Infinite for one value."""
    count: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return abs(self.mean) > self.half


def interval(values: Sequence[float], *, confidence: float = 0.95) -> Estimate:
    """The mean's confidence interval by Student's t.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    count, mean = len(values), statistics.fmean(values)
    if count == 1:
        return Estimate(mean=mean, half=math.inf, count=1)
    error = statistics.stdev(values) / math.sqrt(count)
    return Estimate(mean=mean, half=float(stats.t.ppf(0.5 + confidence / 2, count - 1)) * error, count=count)


def paired(
    values: Mapping[int, float], baseline: Mapping[int, float], *, num_comparisons: int = 1, confidence: float = 0.95
) -> Estimate:
    """Difference to a baseline over the seeds that both have; with several comparisons the interval is wider, so that
    all of them hold together (Bonferroni).

    Raises:
        ValueError: they share no seed.
    """
    shared = sorted(values.keys() & baseline.keys())
    differences = [values[seed] - baseline[seed] for seed in shared]
    return interval(differences, confidence=1.0 - (1.0 - confidence) / num_comparisons)
